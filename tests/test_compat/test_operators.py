# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Operators of mmcv that torch and torchvision serve, against loops over their definitions."""

import mmdmformer  # noqa: F401  (makes mmcv.ops importable, hence first)

# isort: split
import math
from itertools import product

import mmcv.ops
import numpy as np
import pytest
import torch
from mmcv import _ext
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction
from mmcv.ops.sync_bn import SyncBatchNormFunction
from test_mmcv_ops import plain_bilinear, plain_iou, random_boxes
from torch.autograd import gradcheck

from mmdmformer.compat import mmcv_ops

pytestmark = pytest.mark.skipif(
    not isinstance(_ext, mmcv_ops._Bridge), reason='a compiled mmcv works here'
)


def randn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def equal(found, expected):
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-12)


def zero_padded(image, y, x):
    """Bilinear value of ``image`` (C, H, W), which is zero all around."""
    height, width = image.shape[1:]
    value = np.zeros(len(image))
    for i, j in product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= i < height and 0 <= j < width:
            value += (1 - abs(y - i)) * (1 - abs(x - j)) * image[:, i, j]
    return value


def plain_deform_conv(x, offset, mask, weight, stride, padding, dilation, groups, deform_groups):
    """Zhu et al. 2019, equation 1: tap k of a channel's deformable group looks at p + p_k + d_k."""
    (batch, channels, *_), (out, per_group, *kernel) = x.shape, weight.shape
    result = np.zeros((batch, out, *offset.shape[2:]))
    for b, i, j, ky, kx in product(*map(range, (batch, *offset.shape[2:], *kernel))):
        seen = np.zeros(channels)
        for g, share in enumerate(np.split(np.arange(channels), deform_groups)):
            tap = (g * kernel[0] + ky) * kernel[1] + kx
            y = i * stride - padding + ky * dilation + offset[b, 2 * tap, i, j]
            z = j * stride - padding + kx * dilation + offset[b, 2 * tap + 1, i, j]
            seen[share] = zero_padded(x[b, share], y, z) * mask[b, tap, i, j]
        for o in range(out):
            first = o // (out // groups) * per_group
            result[b, o, i, j] += weight[o, :, ky, kx] @ seen[first : first + per_group]
    return result


# stride, padding, dilation, groups, groups of offsets
SETTINGS = [(1, 1, 1, 1, 1), (2, 1, 1, 2, 2), (1, 2, 2, 1, 4)]


@pytest.mark.parametrize('settings', SETTINGS)
def test_deform_conv(settings):
    stride, padding, dilation, groups, deform_groups = settings
    size = [(n + 2 * padding - 2 * dilation - 1) // stride + 1 for n in (4, 5)]
    x, weight = randn(2, 4, 4, 5), randn(2, 4 // groups, 3, 3, seed=1)
    offset, mask = (randn(2, n * deform_groups * 9, *size, seed=n) for n in (2, 1))
    bias = randn(2, seed=3)
    arrays = [t.detach().numpy() for t in (x, offset, mask, weight)]

    def plain(offset, weight, x):
        return mmcv.ops.deform_conv2d(x, offset, weight, *settings)

    def modulated(x, offset, mask, weight, bias):
        return mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, bias, *settings)

    ones = np.ones(mask.shape)
    equal(plain(offset, weight, x), plain_deform_conv(*arrays[:2], ones, arrays[3], *settings))
    expected = plain_deform_conv(*arrays, *settings)
    equal(modulated(x, offset, mask, weight, None), expected)
    equal(modulated(x, offset, mask, weight, bias), expected + bias.detach().numpy()[:, None, None])
    assert gradcheck(plain, (offset, weight, x), fast_mode=True)
    assert gradcheck(modulated, (x, offset, mask, weight, bias), fast_mode=True)
    assert gradcheck(
        lambda *args: modulated(*args, None), (x, offset, mask, weight), fast_mode=True
    )


def test_modulated_deform_conv_reads_larger_offsets_row_after_row():
    """As mmcv's kernels do with those of DyHead, which are of another level."""
    x, weight = randn(2, 2, 5, 5), randn(3, 2, 3, 3, seed=1)
    offset, mask = randn(2, 18, 6, 7, seed=2), randn(2, 9, 6, 7, seed=3)

    def convolve(x, offset, mask, weight):
        return mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, None, 2, 1)

    arrays = [t.detach().numpy() for t in (x, offset, mask, weight)]
    for i, channels in ((1, 18), (2, 9)):
        arrays[i] = np.stack([a.ravel()[: channels * 9].reshape(-1, 3, 3) for a in arrays[i]])
    equal(convolve(x, offset, mask, weight), plain_deform_conv(*arrays, 2, 1, 1, 1, 1))
    assert gradcheck(convolve, (x, offset, mask, weight), fast_mode=True)


@pytest.mark.parametrize('type', ['DCN', 'DCNv2'])
def test_packed_deform_conv_begins_as_a_convolution(type):
    layer = mmcv.cnn.build_conv_layer(dict(type=type), 4, 6, 3, padding=1, bias=False)
    x = torch.rand(2, 4, 7, 7)
    expected = torch.nn.functional.conv2d(x, layer.weight, padding=1)
    # Offsets are zero at first, and DCNv2's factors the sigmoid of zero.
    torch.testing.assert_close(layer(x), expected * (0.5 if type == 'DCNv2' else 1))
    with torch.autocast('cpu', torch.bfloat16):
        layer(x).float().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_multi_scale_deformable_attention():
    """Zhu et al. 2021, equation 3, by the function that mmcv calls on a GPU."""
    shapes, queries, heads, points = [(3, 4), (2, 2)], 2, 2, 2
    value = randn(2, 16, heads, 3)
    places = randn(2, queries, heads, len(shapes), points, 2, seed=1).sigmoid().mul(1.2)
    places = places.detach().requires_grad_()
    weights = randn(2, queries, heads, len(shapes), points, seed=2)
    starts = torch.tensor([0, 12])

    def attend(value, places, weights):
        return MultiScaleDeformableAttnFunction.apply(
            value, torch.tensor(shapes), starts, places, weights, 64
        )

    v, p, w = (t.detach().numpy() for t in (value, places, weights))
    expected = np.zeros((2, queries, heads, 3))
    for b, q, h, level, k in product(range(2), *map(range, weights.shape[1:])):
        height, width = shapes[level]
        image = v[b, starts[level] :, h][: height * width].T.reshape(3, height, width)
        x, y = p[b, q, h, level, k] * (width, height) - 0.5
        expected[b, q, h] += w[b, q, h, level, k] * zero_padded(image, y, x)
    equal(attend(value, places, weights), expected.reshape(2, queries, -1))
    assert gradcheck(attend, (value, places, weights), fast_mode=True)


def plain_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Bodla et al. 2017, figure 2."""
    left, kept = dict(enumerate(scores)), []
    while left:
        best = max(left, key=left.get)
        kept.append((best, left.pop(best)))
        for i in list(left):
            iou = plain_iou(boxes[best], boxes[i], offset)
            factors = dict(
                naive=0.0 if iou >= threshold else 1.0,
                linear=1 - iou if iou >= threshold else 1.0,
                gaussian=math.exp(-(iou**2) / sigma),
            )
            left[i] *= factors[method]
            if left[i] < min_score:
                del left[i]
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms(method, offset):
    boxes, scores = random_boxes(40, seed=6)
    settings = (0.3, 0.5, 0.05, method, offset)
    detections, kept = mmcv.ops.soft_nms(boxes, scores, *settings)
    expected = plain_soft_nms(boxes.tolist(), scores.tolist(), *settings)
    assert kept.tolist() == [i for i, _ in expected] and 3 < len(kept) < 40
    assert torch.equal(detections[:, :4], boxes[kept])
    np.testing.assert_allclose(detections[:, 4], [score for _, score in expected], rtol=1e-5)
    assert len(mmcv.ops.soft_nms(boxes[:0], scores[:0])[1]) == 0


def test_nms_match():
    boxes, scores = random_boxes(40, seed=7)
    groups = [
        group.tolist() for group in mmcv.ops.nms_match(torch.cat([boxes, scores[:, None]], 1), 0.2)
    ]
    left, expected = sorted(range(40), key=lambda i: -scores[i]), []
    while left:
        best = left[0]
        rivals = [i for i in left[1:] if plain_iou(boxes[best], boxes[i], 0) >= 0.2]
        expected.append([best, *rivals])
        left = [i for i in left[1:] if i not in rivals]
    assert groups == expected and 1 < len(groups) < 40


@pytest.mark.parametrize(('kernel', 'padding'), [(3, 1), ((3, 1), (1, 0)), (2, 0)])
def test_masked_conv(kernel, padding):
    layer = mmcv.ops.MaskedConv2d(3, 4, kernel, padding=padding)
    x, mask = torch.rand(1, 3, 6, 7), torch.rand(1, 6, 7) > 0.5
    whole = layer(x)
    mask[:, whole.size(2) :], mask[:, :, whole.size(3) :] = False, False
    found = layer(x, mask)
    assert found.shape == whole.shape
    seen = mask[:, None, : whole.size(2), : whole.size(3)]
    torch.testing.assert_close(found, whole * seen)


@pytest.mark.parametrize('operator', ['carafe', 'carafe_naive'])
@pytest.mark.parametrize('settings', [(3, 1, 2), (1, 2, 1), (5, 2, 3)])
def test_carafe(operator, settings):
    kernel, groups, factor = settings
    features = randn(2, 4, 3, 2)
    masks = randn(2, kernel**2 * groups, 3 * factor, 2 * factor, seed=1)
    function = getattr(mmcv.ops, operator)
    x, m = features.detach().numpy(), masks.detach().numpy()
    expected = np.zeros((2, 4, 3 * factor, 2 * factor))
    for b, c, i, j, ky, kx in product(*map(range, (*expected.shape, kernel, kernel))):
        y, z = i // factor + ky - kernel // 2, j // factor + kx - kernel // 2
        if 0 <= y < 3 and 0 <= z < 2:
            channel = (c // (4 // groups) * kernel + ky) * kernel + kx
            expected[b, c, i, j] += x[b, c, y, z] * m[b, channel, i, j]
    equal(function(features, masks, *settings), expected)
    if operator == 'carafe':  # mmcv lets the other one go backward on a GPU only
        assert gradcheck(
            lambda *args: function(*args, *settings), (features, masks), fast_mode=True
        )


@pytest.mark.parametrize('sampling_ratio', [0, 2])
def test_deform_roi_pool(sampling_ratio):
    features, offset = randn(2, 2, 6, 7), randn(4, 2, 2, 3, seed=1)
    # Inside, across the border, of another grid, of no area.
    rois = torch.tensor(
        [[0, 1.3, 2.1, 9.9, 7.4], [1, -4.0, -3, 8, 5], [1, 0, 0, 13, 11], [0, 3, 3, 3, 3]]
    ).double()

    def pool(features, offset):
        return mmcv.ops.deform_roi_pool(features, rois, offset, (2, 3), 0.5, sampling_ratio, 0.1)

    x, d = features.detach().numpy(), offset.detach().numpy()
    expected = np.zeros((4, 2, 2, 3))
    for r, i, j in product(range(4), range(2), range(3)):
        image, x1, y1, x2, y2 = rois[r].numpy() * (1, 0.5, 0.5, 0.5, 0.5)
        width, height = x2 - x1, y2 - y1
        left = x1 - 0.5 + j * width / 3 + 0.1 * width * d[r, 0, i, j]
        top = y1 - 0.5 + i * height / 2 + 0.1 * height * d[r, 1, i, j]
        n_y, n_x = (sampling_ratio or math.ceil(side) for side in (height / 2, width / 3))
        for a, b in product(range(n_y), range(n_x)):
            y, z = top + (a + 0.5) / n_y * height / 2, left + (b + 0.5) / n_x * width / 3
            expected[r, :, i, j] += plain_bilinear(x[int(image)], y, z) / (n_y * n_x)
    equal(pool(features, offset), expected)
    assert gradcheck(pool, (features, offset), fast_mode=True)
    still = pool(features, None)
    equal(still, pool(features, torch.zeros_like(offset)).detach().numpy())
    assert gradcheck(lambda features: pool(features, None), (features,))


@pytest.mark.parametrize('kind', ['collect', 'distribute'])
@pytest.mark.parametrize('size', [(3, 5), (7, 5)])
def test_psa_mask(kind, size):
    masks = randn(2, size[0] * size[1], 4, 3)
    layer = mmcv.ops.PSAMask(kind, size)
    expected = np.zeros((2, 12, 4, 3))
    for b, y, x, i, j in product(range(2), range(4), range(3), range(size[0]), range(size[1])):
        to_y, to_x = y + i - size[0] // 2, x + j - size[1] // 2
        if 0 <= to_y < 4 and 0 <= to_x < 3:
            value = masks[b, i * size[1] + j, y, x]
            if kind == 'collect':
                expected[b, to_y * 3 + to_x, y, x] = value
            else:
                expected[b, y * 3 + x, to_y, to_x] = value
    equal(layer(masks), expected)
    assert gradcheck(layer, (masks,), fast_mode=True)


def test_synchronized_batch_norm_of_one_process_is_batch_norm():
    """mmcv's layer asks for a group of processes; what it calls does not."""
    x = (3 * randn(4, 5, 3, 2) + 1).detach().float()
    upstream = randn(*x.shape, seed=1).float()
    norm = torch.nn.BatchNorm2d(5, momentum=0.3)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    running = [torch.zeros(5), torch.ones(5)]
    parameters = [p.detach().clone().requires_grad_() for p in (norm.weight, norm.bias)]
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found = SyncBatchNormFunction.apply(
        ours, *running, *parameters, 0.3, norm.eps, None, 1, 'default'
    )
    expected = norm(theirs)
    found.backward(upstream)
    expected.backward(upstream)
    pairs = [(found, expected), (ours.grad, theirs.grad), (running[0], norm.running_mean)]
    pairs += [(running[1], norm.running_var)]
    pairs += [
        (ours.grad, theirs.grad) for ours, theirs in zip(parameters, norm.parameters(), strict=True)
    ]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def clip(polygon, corners):
    """The part of a polygon within a convex one (Sutherland and Hodgman 1974)."""
    for start, end in zip(corners, np.roll(corners, -1, 0), strict=True):
        side = [np.linalg.det([end - start, point - start]) for point in polygon]
        clipped = []
        for k in range(len(polygon)):
            if side[k - 1] * side[k] < 0:
                t = side[k - 1] / (side[k - 1] - side[k])
                clipped.append(polygon[k - 1] + t * (polygon[k] - polygon[k - 1]))
            if side[k] >= 0:
                clipped.append(polygon[k])
        polygon = clipped
    return np.array(polygon).reshape(-1, 2)


def plain_rotated_iou(a, b, mode='iou'):
    def corners(x, y, w, h, angle):
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        half = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
        return half @ turn.T + (x, y)

    x, y = clip(corners(*a), corners(*b)).T
    shared = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    area_a, area_b = a[2] * a[3], b[2] * b[3]
    return shared / (area_a if mode == 'iof' else area_a + area_b - shared)


def random_rotated_boxes(n, seed):
    rng = np.random.default_rng(seed)
    boxes = np.concatenate(
        [rng.uniform(0, 20, (n, 2)), rng.uniform(1, 15, (n, 2)), rng.uniform(-4, 4, (n, 1))], 1
    )
    return torch.tensor(boxes)


@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_rotated_iou(mode):
    a, b = random_rotated_boxes(12, seed=0), random_rotated_boxes(10, seed=1)
    expected = np.array([[plain_rotated_iou(x, y, mode) for y in b.numpy()] for x in a.numpy()])
    assert (expected == 0).any() and (expected > 0.3).any()
    equal(mmcv.ops.box_iou_rotated(a, b, mode), expected)
    equal(mmcv.ops.box_iou_rotated(a[:10], b, mode, aligned=True), expected[:10].diagonal())
    mirrored = [boxes * boxes.new_tensor([1, 1, 1, 1, -1]) for boxes in (a, b)]
    equal(mmcv.ops.box_iou_rotated(*mirrored, mode, clockwise=False), expected)


def test_rotated_iou_where_sides_coincide():
    box = [30000.3, 20000.7, 8.0, 4.0, 0.7]
    others = torch.tensor(
        [
            box,
            [*box[:2], 4, 8, 0.7 + math.pi / 2],  # the same, a quarter turned and named so
            [*box[:4], 0.7 + math.pi],
            [*box[:2], 4, 4, 0.7],  # the middle half, sharing two sides
            [box[0] + 8 * math.cos(0.7), box[1] + 8 * math.sin(0.7), 8, 4, 0.7],  # touches
            [*box[:2], 0, 4, 0.7],  # of no area
        ],
        dtype=torch.float64,
    )
    found = mmcv.ops.box_iou_rotated(others[:1], others)
    torch.testing.assert_close(found, found.new_tensor([[1, 1, 1, 0.5, 0, 0]]), atol=1e-9, rtol=0)


@pytest.mark.parametrize('labels', [None, torch.arange(30) % 2])
def test_rotated_nms(labels):
    boxes = random_rotated_boxes(30, seed=2)
    scores = torch.randperm(30, generator=torch.Generator().manual_seed(0)).double()
    left, expected = sorted(range(30), key=lambda i: -scores[i]), []
    while left:
        best = left.pop(0)
        expected.append(best)
        left = [
            i
            for i in left
            if (labels is not None and labels[i] != labels[best])
            or plain_rotated_iou(*boxes[[best, i]].numpy()) <= 0.2
        ]
    detections, kept = mmcv.ops.nms_rotated(boxes, scores, 0.2, labels)
    assert kept.tolist() == expected and len(kept) < 30
    assert torch.equal(detections, torch.cat([boxes[kept], scores[kept, None]], 1))
