# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of known layers, and what ACmix adds to detectors and segmentors."""

from math import ceil, prod
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmdmformer.analysis.multiply_adds import count_multiply_adds
from mmdmformer.engine.model import build_model

CONFIGS = Path(__file__).parents[2] / 'configs'


def test_layers_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3),  # 5x7 to 3x4 pixels
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 4, (1, 3), dilation=1),  # to 3x2 pixels
        nn.Flatten(),
        nn.Linear(24, 10),
    )
    weights = [value.clone() for value in network.state_dict().values()]
    counted = count_multiply_adds(network, (5, 7))
    assert counted == 3 * 4 * 6 * 9 + 3 * 2 * 4 * 6 * 3 + 24 * 10
    assert all(map(torch.equal, network.state_dict().values(), weights))


def test_images_of_four_channels():
    network = nn.Conv2d(4, 6, 3, padding=1, groups=2)
    assert count_multiply_adds(network, (5, 7)) == 5 * 7 * 6 * 2 * 9


def test_matrix_products():
    class Product(nn.Module):
        def forward(self, x):
            return x @ x.transpose(-1, -2)

    assert count_multiply_adds(Product(), (5, 7)) == prod((3, 5, 5, 7))


def test_a_two_stage_detector_is_refused():
    path = CONFIGS / 'mini/mask-rcnn_dmformer-nano_fpn_mini-coco.py'
    with pytest.raises(ValueError, match='of MaskRCNN depend on what it finds'):
        count_multiply_adds(build_model(Config.fromfile(path)), (64, 64))


def of_pvt(depths, size):
    """108 multiply-adds for each number of each map, whose sides are rounded down."""
    added = 0
    for depth, stride, channels in zip(depths, (4, 8, 16, 32), (64, 128, 320, 512), strict=True):
        added += depth * prod(side // stride for side in size) * channels
    return 108 * added


def of_swin(depths, size):
    """The same, on maps that are padded to whole windows of 7."""
    added = 0
    for stage, depth in enumerate(depths):
        sides = (7 * ceil(side / 2 ** (stage + 2) / 7) for side in size)
        added += depth * prod(sides) * 96 * 2**stage
    return 108 * added


def of_resnet(depths, size):
    """27 for each number that comes in and 81 for each that goes out."""
    added = 0
    sides = [ceil(side / 4) for side in size]
    for stage, depth in enumerate(depths):
        width, before = 64 * 2**stage, prod(sides)
        if stage:
            sides = [ceil(side / 2) for side in sides]
        after = prod(sides)
        added += width * (27 * before + 81 * after + (depth - 1) * 108 * after)
    return added


def of_san(depths, size):
    """Six maps of c/16 channels become nine, and these c/4 channels."""
    added = 0
    for stage, depth in enumerate(depths):
        channels = 64 * (1, 4, 8, 16, 32)[stage]
        positions = prod(side // 2 ** (stage + 1) for side in size)
        added += depth * positions * (54 * channels // 16 + 81 * channels // 4)
    return added


COCO, ADE20K, TWO_STAGE = (800, 1333), (512, 2048), (800, 1280)
# size of the image; what the convolution path must add; what the paper's rounded numbers add
INCREMENTS = {
    'retinanet_resnet-acmix-50_fpn_8xb2-1x_coco': (COCO, of_resnet(((3, 4, 6, 3)), COCO), 4),
    'retinanet_san-acmix-19_fpn_8xb2-1x_coco': (COCO, of_san((3, 3, 4, 6, 3), COCO), 4),
    'retinanet_pvt-acmix-t_fpn_8xb2-1x_coco': (COCO, of_pvt((2, 2, 2, 2), COCO), 2),
    'mask-rcnn_swin-acmix-t_fpn_8xb2-3x_coco': (TWO_STAGE, of_swin((2, 2, 6, 2), TWO_STAGE), 3),
    'pvt-acmix-t_sem-fpn_8xb4-40k_ade20k-512x512': (ADE20K, of_pvt((2, 2, 2, 2), ADE20K), 2),
    'pvt-acmix-s_sem-fpn_8xb4-40k_ade20k-512x512': (ADE20K, of_pvt((3, 4, 6, 3), ADE20K), 3),
    'swin-acmix-t_upernet_8xb2-160k_ade20k-512x512': (ADE20K, of_swin((2, 2, 6, 2), ADE20K), 5),
    'swin-acmix-s_upernet_8xb2-160k_ade20k-512x512': (ADE20K, of_swin((2, 2, 18, 2), ADE20K), 5),
}


@pytest.mark.parametrize('name', INCREMENTS)
def test_acmix_adds_its_convolution_path_alone(name):
    size, expected, printed = INCREMENTS[name]
    cfg = Config.fromfile(CONFIGS / f'acmix/{name}.py')
    baseline = Config(cfg.to_dict())
    if 'san' in name:
        baseline.model.backbone.type = 'SAN'
    else:
        baseline.model.backbone.rates = 'attention'
    with_path, without_path = (build_model(c) for c in (cfg, baseline))
    if hasattr(with_path, 'roi_head'):
        with_path, without_path = with_path.backbone, without_path.backbone
    added = count_multiply_adds(with_path, size) - count_multiply_adds(without_path, size)
    assert added == expected
    assert abs(added / 1e9 - printed) < 1.5  # a difference of two rounded numbers, of unknown size
