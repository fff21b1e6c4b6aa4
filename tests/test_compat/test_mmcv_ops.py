# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mmcv's public operators against plain implementations of their definitions."""

import mmdmformer  # noqa: F401  (makes mmcv.ops importable, hence first)

# isort: split
import math

import mmcv.ops
import numpy as np
import pytest
import torch
from mmcv import _ext
from mmcv.ops import RoIAlign, batched_nms, nms, roi_align, sigmoid_focal_loss

from mmdmformer.compat import mmcv_ops
from mmdmformer.compat.operators.common import how_to_build

needs_bridge = pytest.mark.skipif(
    not isinstance(_ext, mmcv_ops._Bridge), reason='a compiled mmcv works here'
)


def plain_iou(a, b, offset):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area_a, area_b = ((x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b))
    return width * height / (area_a + area_b - width * height)


def plain_nms(boxes, scores, threshold, offset):
    """Take the best box that is left, drop all that overlap it too much, repeat."""
    left = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if plain_iou(boxes[best], boxes[i], offset) <= threshold]
    return kept


def random_boxes(n, seed, extent=60.0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, extent, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(1, 30, (n, 2))], axis=1)
    return torch.tensor(boxes, dtype=torch.float32), torch.tensor(
        rng.permutation(n) / n, dtype=torch.float32
    )


@pytest.mark.parametrize('threshold', [0.1, 0.5, 0.8])
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_equals_its_definition(offset, threshold):
    boxes, scores = random_boxes(80, seed=offset)
    detections, kept = nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == plain_nms(boxes.tolist(), scores.tolist(), threshold, offset)
    assert torch.equal(detections, torch.cat([boxes[kept], scores[kept, None]], dim=1))


def test_nms_offset_decides():
    # Two sides of 1 + offset pixels share half of it: IoU is 1/3 without, 1/2 with the offset.
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.4, offset=0)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.4, offset=1)[1].tolist() == [0]


def test_nms_options_and_inputs():
    boxes, scores = random_boxes(40, seed=3)
    reference = plain_nms(boxes.tolist(), scores.tolist(), 0.3, 0)
    assert nms(boxes, scores, 0.3, max_num=4)[1].tolist() == reference[:4]
    above = [i for i in reference if scores[i] > 0.5]
    assert nms(boxes, scores, 0.3, score_threshold=0.5)[1].tolist() == above
    detections, kept = nms(boxes.numpy(), scores.numpy(), 0.3)
    assert isinstance(detections, np.ndarray) and kept.tolist() == reference
    assert nms(boxes[:0], scores[:0], 0.3)[1].shape == (0,)
    assert nms(boxes[:0], scores[:0], 0.3, offset=1)[0].shape == (0, 5)


@needs_bridge
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_nms_takes_the_types_of_mixed_precision(dtype):
    boxes, scores = random_boxes(40, seed=4)
    rounded = boxes.to(dtype)
    expected = plain_nms(rounded.tolist(), scores.tolist(), 0.3, 0)
    assert nms(rounded, scores, 0.3)[1].tolist() == expected


def test_batched_nms_works_class_by_class():
    boxes, scores = random_boxes(60, seed=5)
    classes = torch.arange(60) % 3
    expected = []
    for c in range(3):
        mine = torch.nonzero(classes == c).flatten()
        kept = plain_nms(boxes[mine].tolist(), scores[mine].tolist(), 0.3, 0)
        expected += mine[kept].tolist()
    expected.sort(key=lambda i: -scores[i])
    for split_thr in (10000, 10):
        cfg = dict(type='nms', iou_threshold=0.3, split_thr=split_thr)
        detections, kept = batched_nms(boxes, scores, classes, cfg)
        assert kept.tolist() == expected
        assert torch.equal(detections, torch.cat([boxes[kept], scores[kept, None]], dim=1))
    assert batched_nms(boxes, scores, classes, None)[0].shape == (60, 5)


def plain_bilinear(image, y, x):
    """Value of ``image`` (C, H, W) at a point; zero further than one pixel outside."""
    height, width = image.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(len(image))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = math.floor(y), math.floor(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = (1 - x + x0) * image[:, y0, x0] + (x - x0) * image[:, y0, x1]
    bottom = (1 - x + x0) * image[:, y1, x0] + (x - x0) * image[:, y1, x1]
    return (1 - y + y0) * top + (y - y0) * bottom


def plain_roi_align(features, rois, size, scale, sampling_ratio, aligned):
    """He et al. 2017: the mean of bilinear samples on a regular grid within each bin."""
    output = np.zeros((len(rois), features.shape[1], *size))
    for r, (index, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0.0) for c in corners)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1.0), max(width, 1.0)
        bin_h, bin_w = height / size[0], width / size[1]
        n_y, n_x = (sampling_ratio or math.ceil(b) for b in (bin_h, bin_w))
        for i, j in np.ndindex(size):
            samples = [
                plain_bilinear(
                    features[int(index)],
                    y1 + (i + (a + 0.5) / n_y) * bin_h,
                    x1 + (j + (b + 0.5) / n_x) * bin_w,
                )
                for a in range(n_y)
                for b in range(n_x)
            ]
            if samples:
                output[r, :, i, j] = np.mean(samples, axis=0)
    return output


FEATURES = np.random.default_rng(0).normal(size=(2, 3, 9, 11))
# Inside, across the border, outside, thinner than a pixel, of no area.
ROIS = np.array(
    [
        [0, 1.3, 2.1, 17.9, 13.4],
        [1, 0.0, 0.0, 21.0, 17.0],
        [0, -6.0, -3.0, 8.0, 5.0],
        [1, 14.2, 9.7, 40.0, 33.0],
        [0, 60.0, 60.0, 70.0, 70.0],
        [1, 3.2, 4.1, 3.5, 4.2],
        [0, 5.0, 5.0, 5.0, 5.0],
    ]
)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 1, 2, 3])
@pytest.mark.parametrize(('scale', 'size'), [(0.5, (2, 3)), (1.0, (4, 4)), (0.25, (1, 2))])
def test_roi_align_equals_its_definition(aligned, sampling_ratio, scale, size):
    args = (size, scale, sampling_ratio)
    expected = plain_roi_align(FEATURES, ROIS, *args, aligned)
    found = roi_align(torch.tensor(FEATURES), torch.tensor(ROIS), *args, 'avg', aligned)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_roi_align_module(memory_format):
    layer = RoIAlign(3, spatial_scale=0.5, sampling_ratio=2)
    features = torch.tensor(FEATURES, dtype=torch.float32).to(memory_format=memory_format)
    found = layer(features, torch.tensor(ROIS, dtype=torch.float32))
    expected = plain_roi_align(FEATURES, ROIS, (3, 3), 0.5, 2, True)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_roi_align_gradient(aligned, sampling_ratio):
    rois = torch.tensor(ROIS)
    features = torch.tensor(FEATURES, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: roi_align(x, rois, (2, 3), 0.5, sampling_ratio, 'avg', aligned), (features,)
    )


def test_roi_align_without_boxes():
    features = torch.tensor(FEATURES, requires_grad=True)
    pooled = roi_align(features, torch.zeros(0, 5, dtype=torch.float64), (2, 3), 0.5, 0)
    assert pooled.shape == (0, 3, 2, 3)
    pooled.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@needs_bridge
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_roi_align_in_half_precision(dtype):
    rois = torch.tensor(ROIS, dtype=torch.float32).to(dtype)
    features = torch.tensor(FEATURES, dtype=torch.float32).to(dtype).requires_grad_()
    wide = features.detach().float().requires_grad_()
    found = roi_align(features, rois, (2, 2), 0.5, 2)
    expected = roi_align(wide, rois.float(), (2, 2), 0.5, 2)
    assert found.dtype == dtype and torch.equal(found, expected.to(dtype))
    found.float().square().sum().backward()
    expected.to(dtype).float().square().sum().backward()
    assert torch.equal(features.grad, wide.grad.to(dtype))


def focal_loss_formula(logits, target, gamma, alpha, weight=None):
    """Lin et al. 2017, equation 5, per logit."""
    positive = torch.nn.functional.one_hot(target, logits.size(1) + 1)[:, :-1].bool()
    p = torch.sigmoid(logits)
    p_t = torch.where(positive, p, 1 - p)
    alpha_t = torch.where(positive, alpha, 1 - alpha)
    loss = -alpha_t * (1 - p_t) ** gamma * torch.log(p_t)
    return loss if weight is None else loss * weight[target][:, None]


@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9)])
@pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
@pytest.mark.parametrize('weighted', [False, True])
@needs_bridge  # mmcv compiles it for GPUs only
def test_sigmoid_focal_loss_equals_its_formula(gamma, alpha, reduction, weighted):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(6, 3, dtype=torch.float64, generator=generator)
    # The class after the last is background; mmcv has no weight for it.
    target = torch.tensor([0, 1, 2, 0, 1, 2] if weighted else [0, 1, 2, 3, 3, 0])
    weight = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64) if weighted else None
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = sigmoid_focal_loss(ours, target, gamma, alpha, weight, reduction)
    expected = focal_loss_formula(theirs, target, gamma, alpha, weight)
    if reduction != 'none':
        expected = expected.sum() / (len(logits) if reduction == 'mean' else 1)
    torch.testing.assert_close(found, expected)
    upstream = torch.rand(expected.shape, dtype=torch.float64, generator=generator)
    found.backward(upstream)
    expected.backward(upstream)
    torch.testing.assert_close(ours.grad, theirs.grad)


@needs_bridge
def test_sigmoid_focal_loss_of_extreme_logits():
    logits = torch.tensor([[200.0, -200.0, 200.0, -200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0]), 2.0, 0.25, None, 'none')
    torch.testing.assert_close(loss, torch.tensor([[0.0, 0.0, 150.0, 0.0]]))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0, 0.75, 0.0]]))
    assert sigmoid_focal_loss(logits[:0], torch.tensor([]).long(), 2.0, 0.25, None, 'sum') == 0


@needs_bridge
def test_any_other_operator_fails_by_name():
    with pytest.raises(NotImplementedError) as error:
        mmcv.ops.roi_pool(torch.ones(1, 1, 4, 4), torch.zeros(1, 5), 2)
    assert str(error.value) == (
        "mmcv operator 'roi_pool_forward' is not available, as no working compiled mmcv is "
        f'installed; {how_to_build()}.'
    )
    assert '--no-build-isolation' in str(error.value) and 'mmcv==' in str(error.value)


@needs_bridge
def test_maximum_pooling_fails_by_name():
    with pytest.raises(NotImplementedError, match=r"'roi_align' with pool_mode='max' .* use"):
        roi_align(torch.tensor(FEATURES), torch.tensor(ROIS), 2, 1.0, 0, 'max')


@needs_bridge
def test_what_the_extension_tells_about_itself():
    assert mmcv.ops.get_compiling_cuda_version() == 'not available'
    assert mmcv.ops.get_compiler_version() == 'not available'
