# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What the pipelines do to images, measured over samples against what the recipes say.

Random seeds are fixed; bounds are four standard errors of what is measured.
"""

from collections import Counter
from math import sqrt

import numpy as np
import pytest
import torch
from families import CONFIGS, MAIN, name_of
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope
from mmengine.runner import set_random_seed
from scipy.stats import chisquare, kstest, norm, truncnorm

from mmdmformer.engine.model import build_model

CLASSIFIER = 'dmformer/dmformer-s_8xb128_in1k'
TRANSFORMER_CLASSIFIER = 'acmix/swin-acmix-t_8xb128_in1k'
PLAIN_CLASSIFIER = 'acmix/resnet-acmix-50_8xb32_in1k'
DETECTORS = (
    'dmformer/retinanet_dmformer-s_fpn_8xb2-1x_coco',
    'dmformer/mask-rcnn_dmformer-s_fpn_8xb2-1x_coco',
)
MULTI_SCALE_DETECTOR = 'acmix/retinanet_pvt-acmix-t_fpn_8xb2-3x_coco'
CROPPING_DETECTOR = 'acmix/mask-rcnn_swin-acmix-t_fpn_8xb2-3x_coco'
SEGMENTORS = (
    'dmformer/dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512',
    'dmformer/dmformer-s_upernet_8xb2-160k_ade20k-512x512',
)
ALL = (
    CLASSIFIER,
    TRANSFORMER_CLASSIFIER,
    PLAIN_CLASSIFIER,
    *DETECTORS,
    MULTI_SCALE_DETECTOR,
    CROPPING_DETECTOR,
    *SEGMENTORS,
)
# timm's increasing policies: the argument of each at magnitudes 0 and 10
RAND_AUGMENT = {
    ('AutoContrast', None): None,
    ('Equalize', None): None,
    ('Invert', None): None,
    ('Rotate', None): (0, 30),
    ('Posterize', None): (4, 0),
    ('Solarize', None): (256, 0),
    ('SolarizeAdd', None): (0, 110),
    ('ColorTransform', None): (0, 0.9),
    ('Contrast', None): (0, 0.9),
    ('Brightness', None): (0, 0.9),
    ('Sharpness', None): (0, 0.9),
    ('Shear', 'horizontal'): (0, 0.3),
    ('Shear', 'vertical'): (0, 0.3),
    ('Translate', 'horizontal'): (0, 0.45),
    ('Translate', 'vertical'): (0, 0.45),
}


@pytest.fixture(autouse=True)
def _fixed_seed():
    set_random_seed(0)


def build_step(name, kind, split='train'):
    """A step of a config's pipeline, as the data set builds it."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    init_default_scope(cfg.default_scope)
    (step,) = [s for s in cfg[f'{split}_dataloader'].dataset.pipeline if s.type == kind]
    return TRANSFORMS.build(step)


def assert_share(hits, probability):
    """That a share of successes has a probability."""
    error = sqrt(probability * (1 - probability) / len(hits))
    assert abs(np.mean(hits) - probability) < 4 * error


def pipelines(path):
    """The steps of training and of testing."""
    cfg = Config.fromfile(path)
    return [cfg[f'{split}_dataloader'].dataset.pipeline for split in ('train', 'test')]


@pytest.mark.parametrize('path', MAIN, ids=name_of)
def test_every_recipe_has_the_pipelines_of_one_that_is_measured_here(path):
    assert pipelines(path) in [pipelines(CONFIGS / f'{name}.py') for name in ALL]


class TestRandAugment:
    """m9-mstd0.5-inc1: two of 15 policies, each applied to half of the images."""

    @pytest.fixture
    def augment(self):
        return build_step(CLASSIFIER, 'RandAugment')

    def test_policies(self, augment):
        policies = {
            (policy['type'], policy.get('direction')): policy.get('magnitude_range')
            for policy in augment.policies
        }
        assert policies == RAND_AUGMENT
        picks = [augment.random_policy_indices() for _ in range(3000)]
        assert {len(pick) for pick in picks} == {2}
        counts = Counter(index for pick in picks for index in pick)
        assert chisquare([counts[i] for i in range(15)]).pvalue > 1e-3
        for operation in augment.transforms:
            assert_share([not operation.random_disable() for _ in range(1000)], 0.5)

    def test_magnitudes(self, augment):
        """Normal around 9 with deviation 0.5, and at most 10."""
        for operation in augment.transforms:
            if operation.magnitude_range is None:
                continue
            low, high = operation.magnitude_range
            values = np.array([operation.random_magnitude() for _ in range(2000)])
            levels = 10 * (values - low) / (high - low)
            assert levels.max() == pytest.approx(10)
            below = levels < 10 - 1e-6
            assert_share(below, norm.cdf(2))
            assert kstest(levels[below], truncnorm(-np.inf, 2, 9, 0.5).cdf).pvalue > 1e-3

    def test_magnitudes_reach_the_pixels(self, augment):
        """Solarizing inverts the values from a threshold of 256 (1 - magnitude / 10) on."""
        index = list(RAND_AUGMENT).index(('Solarize', None))
        ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        changed = []
        for _ in range(2000):
            image = augment.transforms[index](dict(img=ramp.copy()))['img']
            changed.append((image != ramp).sum() / 3)
        applied = np.array([count for count in changed if count])
        assert_share([count > 0 for count in changed], 0.5)
        levels = applied / 25.6
        # clipping at 10 and counting whole values lower the mean a little
        assert abs(levels.mean() - 8.976) < 4 * 0.49 / sqrt(len(levels))
        assert levels.std() == pytest.approx(0.487, abs=0.05)


def test_a_quarter_of_the_images_has_a_part_erased_by_noise():
    erase = build_step(CLASSIFIER, 'RandomErasing')
    side = 112
    areas, noise = [], []
    for _ in range(2000):
        image = erase(dict(img=np.zeros((side, side, 3), np.uint8)))['img']
        rows, columns = image.any(axis=(1, 2)).nonzero()[0], image.any(axis=(0, 2)).nonzero()[0]
        areas.append(len(rows) * len(columns) / side**2)
        if len(rows):
            noise.append(image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    erased = np.array([area for area in areas if area])
    assert_share([area > 0 for area in areas], 0.25)
    assert erased.min() > 0.018 and erased.max() < 0.34
    deviation = (1 / 3 - 0.02) / sqrt(12)
    assert abs(erased.mean() - (1 / 3 + 0.02) / 2) < 4 * deviation / sqrt(len(erased)) + 0.005
    # values below 0 and above 255 are clipped
    preprocessor = Config.fromfile(CONFIGS / f'{CLASSIFIER}.py').model.data_preprocessor
    pixels = np.concatenate([patch.reshape(-1, 3) for patch in noise])[:, ::-1]
    normalized = (pixels - np.array(preprocessor.mean)) / np.array(preprocessor.std)
    assert np.abs(normalized.mean(axis=0)).max() < 0.03
    assert np.abs(normalized.std(axis=0) - 1).max() < 0.06


class TestBatchAugmentation:
    """Each batch takes Mixup (alpha 0.8) or CutMix (alpha 1), one as often as the other."""

    size, num_batches = 8, 3000
    values = torch.arange(1.0, size + 1)  # of all pixels of each image

    @pytest.fixture(scope='class')
    def batches(self):
        """Of each batch: whether it was mixed, the means of its images, and its labels."""
        cfg = Config.fromfile(CONFIGS / f'{CLASSIFIER}.py')
        cfg.model.backbone.arch = 'nano'
        augment = build_model(cfg).data_preprocessor.batch_augments
        set_random_seed(0)
        images = self.values[:, None, None, None].repeat(1, 1, 64, 64)
        mixed, means, labels = [], [], []
        for _ in range(self.num_batches):
            out, scores = augment(images.clone(), torch.eye(self.size))
            mixed.append(bool((out[:, 0, 0, 0] % 1).any()))  # cutting only moves values
            means.append(out.mean((1, 2, 3)))
            labels.append(scores)
        return torch.tensor(mixed), torch.stack(means), torch.stack(labels)

    def test_rates(self, batches):
        mixed, _, _ = batches
        assert_share(mixed.numpy(), 0.5)

    def test_labels_follow_the_pixels(self, batches):
        _, means, labels = batches
        torch.testing.assert_close(labels.sum(-1), torch.ones(labels.shape[:2]))
        assert (labels > 0).sum(-1).max() == 2
        # the mean of an image is that of its sources, in the shares of the labels
        torch.testing.assert_close(means, labels @ self.values)

    def shares(self, labels):
        """The share of the other image in those that are mixtures."""
        return 1 - labels.diagonal(dim1=1, dim2=2).min(1).values.numpy()

    def test_mixing_ratio(self, batches):
        """Beta(0.8, 0.8), whose variance is 1 / (4 (2 alpha + 1))."""
        mixed, _, labels = batches
        shares = self.shares(labels[mixed])
        assert kstest(shares, 'beta', (0.8, 0.8)).pvalue > 1e-3
        assert shares.var() == pytest.approx(1 / 10.4, abs=0.0085)  # alpha 1: 0.0833

    def test_cut_area(self, batches):
        """The part of a square of random area and place that lies in the image.

        A square of side r, centered anywhere, covers (r - r ** 2 / 4) ** 2 on average; the mean
        over r ** 2 uniform in [0, 1] is 77 / 240.
        """
        mixed, _, labels = batches
        areas = self.shares(labels[~mixed])
        assert abs(areas.mean() - 77 / 240) < 4 * areas.std() / sqrt(len(areas)) + 0.01


@pytest.mark.parametrize('name', ALL)
def test_half_of_the_images_is_mirrored(name):
    flip = build_step(name, 'RandomFlip')
    image = np.array([[0, 255]], np.uint8).repeat(3, 0)[..., None].repeat(3, 2)
    mirrored = [
        flip(dict(img=image.copy(), img_shape=image.shape[:2]))['img'][0, 0, 0] == 255
        for _ in range(2000)
    ]
    assert_share(mirrored, 0.5)


@pytest.mark.parametrize('name', SEGMENTORS)
def test_segmentation_scales(name):
    """The short side is 512 pixels times a uniform factor between 0.5 and 2."""
    resize = build_step(name, 'RandomResize')
    image = np.zeros((32, 64, 3), np.uint8)
    labels = np.zeros((32, 64), np.uint8)
    factors = []
    for _ in range(200):
        sample = resize(dict(img=image, gt_seg_map=labels, seg_fields=['gt_seg_map']))
        height, width = sample['img'].shape[:2]
        assert sample['gt_seg_map'].shape == (height, width) and width == 2 * height
        factors.append(height / 512)
    assert 0.5 - 1e-3 <= min(factors) < 0.53 and 1.97 < max(factors) <= 2 + 1e-3
    assert kstest(factors, 'uniform', (0.5, 1.5)).pvalue > 1e-3


@pytest.mark.parametrize('name', SEGMENTORS)
@pytest.mark.parametrize('shape', [(256, 1024), (512, 512), (700, 900)])
def test_segmentation_crops(name, shape):
    crop = build_step(name, 'RandomCrop')
    labels = np.arange(shape[0] * shape[1]).reshape(shape) % 3
    image = labels[..., None].repeat(3, 2)
    sample = crop(dict(img=image, gt_seg_map=labels, seg_fields=['gt_seg_map'], img_shape=shape))
    assert sample['img'].shape == (min(shape[0], 512), 512, 3)
    assert (sample['img'][..., 0] == sample['gt_seg_map']).all()


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
@pytest.mark.parametrize('name', DETECTORS)
def test_detection_images_fit_into_1333x800(name, split):
    resize = build_step(name, 'Resize', split)
    for height, width in ((480, 640), (640, 427), (333, 500), (200, 640), (640, 150), (1080, 1920)):
        image = np.zeros((height, width, 3), np.uint8)
        new = resize(dict(img=image))['img'].shape[:2]
        factor = min(1333 / max(height, width), 800 / min(height, width))
        assert new == (int(height * factor + 0.5), int(width * factor + 0.5))
        assert max(new) == 1333 or min(new) == 800


def test_multi_scale_detection_images_have_a_shorter_side_between_640_and_800():
    resize = build_step(MULTI_SCALE_DETECTOR, 'RandomResize')
    image = np.zeros((48, 64, 3), np.uint8)
    sides = []
    for _ in range(400):
        height, width = resize(dict(img=image))['img'].shape[:2]
        assert width == pytest.approx(height * 4 / 3, abs=1)
        sides.append(height)
    assert chisquare(np.histogram(sides, bins=np.linspace(639.5, 800.5, 8))[0]).pvalue > 1e-3
    height, width = resize(dict(img=np.zeros((30, 120, 3), np.uint8)))['img'].shape[:2]
    assert (width, height) == (1333, 333)


def test_half_of_the_cropping_detectors_images_are_cropped_and_all_have_one_of_11_sides():
    resize = build_step(CROPPING_DETECTOR, 'RandomChoice')
    ramps = np.stack(np.meshgrid(np.arange(64) * 4, np.arange(48) * 5), -1).astype(np.uint8)
    image = np.pad(ramps, ((0, 0), (0, 0), (0, 1)))
    cropped, sides = [], []
    for _ in range(400):
        new = resize(dict(img=image.copy()))['img']
        cropped.append(np.ptp(new[..., 0]) < 63 * 4 or np.ptp(new[..., 1]) < 47 * 5)
        sides.append(min(new.shape[:2]))
    assert_share(cropped, 0.5)
    counts = Counter(side for side, crop in zip(sides, cropped, strict=True) if not crop)
    assert set(counts) == {480 + 32 * i for i in range(11)}
    assert chisquare(list(counts.values())).pvalue > 1e-3
    assert max(sides) == 800
