# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Effective receptive fields: equal to those that are known, their squares counted one by one."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from PIL import Image
from torch import nn

from mmdmformer.analysis import receptive_field as erf
from mmdmformer.analysis.loaded_model import UNTRAINED, load_model
from mmdmformer.analysis.receptive_field import Field, build_backbone, measure_field
from mmdmformer.engine.runtime import UsageError
from mmdmformer.layers import LayerNorm2d

REPOSITORY = Path(__file__).parents[2]
TOOL = REPOSITORY / 'tools/visualization/vis_erf.py'
CLASSIFIER = REPOSITORY / 'configs/mini/dmformer-nano_mini-imagenet.py'


class Boxes(nn.Module):
    """Depthwise convolutions with equal, positive weights."""

    def __init__(self, *kernels, dilation=1, last=None):
        super().__init__()
        self.layers = nn.Sequential()
        for size in kernels:
            conv = nn.Conv2d(3, 3, size, padding='same', groups=3, bias=False, dilation=dilation)
            nn.init.constant_(conv.weight, 0.1)
            self.layers.append(conv)
        self.last = last or nn.Identity()
        self.double()

    def forward(self, x):
        return x, self.last(self.layers(x))


def boxes_convolved(kernels, side, dilation=1):
    """The known answer in one dimension, at the center of ``side`` pixels."""
    line = np.ones(1)
    for size in kernels:
        box = np.zeros((size - 1) * dilation + 1)
        box[::dilation] = 1 / size
        line = np.convolve(line, box)
    margin = (side - len(line)) // 2
    return np.pad(line, margin)


@pytest.mark.parametrize('kernels, dilation', [((3, 3, 3, 3), 1), ((7, 5, 3), 1), ((7, 3), 3)])
def test_field_of_boxes_is_boxes_convolved(kernels, dilation):
    images = [image.double() for image in erf.noise_images(3, 41)]
    values = measure_field(Boxes(*kernels, dilation=dilation), images)
    line = boxes_convolved(kernels, 41, dilation)
    np.testing.assert_allclose(values, np.outer(line, line), atol=1e-15)
    field = Field('boxes', values)
    assert field.center == (20, 20)
    for share in (*erf.SHARES, 1.0):
        held = [line[20 - k : 21 + k].sum() ** 2 for k in range(21)]
        expected = next(2 * k + 1 for k in range(21) if held[k] >= share - 1e-9)
        assert field.square_side(share) == expected
    assert field.square_side(1.0) == 1 + sum((size - 1) * dilation for size in kernels)


def test_stage_is_chosen():
    values = measure_field(Boxes(3), [torch.rand(1, 3, 9, 9).double()], stage=0)
    assert values[4, 4] == 1 and values.sum() == 1
    with pytest.raises(UsageError, match='--stage 2 is no feature map of the outputs'):
        measure_field(Boxes(3), [torch.rand(1, 3, 9, 9).double()], stage=2)


def test_field_behind_a_layer_norm_is_not_rounding():
    """Its channels' sum is constant, and the gradient of that would be nothing but rounding."""
    network = Boxes(5, 5, last=LayerNorm2d(3))
    images = [image.double() for image in erf.noise_images(8, 21)]
    x = images[0].clone().requires_grad_()
    (plain,) = torch.autograd.grad(network(x)[1][0, :, 10, 10].sum(), x)
    assert plain.abs().max() < 1e-12
    line = boxes_convolved((5, 5), 21)
    values = measure_field(network, images)
    np.testing.assert_allclose(values, np.outer(line, line), atol=1e-12)


def test_center_of_an_uneven_field_is_where_its_mass_is():
    values = torch.zeros(10, 10, dtype=torch.float64)
    values[2, 7] = 0.5
    values[2, 8] = 0.5 - 1e-3
    values[9, 7] = 1e-3
    field = Field('', values)
    assert field.center == (2, 7)
    assert [field.square_side(share) for share in (0.5, 0.99, 1)] == [1, 3, 15]


def test_dilation_widens_the_field():
    specs = [
        f"DMFormer(arch='nano', layer_scale_init_value=1.0{more})"
        for more in ('', ', dilations=(1, 1, 1)')
    ]
    fields = [
        Field(spec, measure_field(build_backbone(spec), erf.noise_images(1, 512))) for spec in specs
    ]
    sides = [[field.square_side(share) for share in erf.SHARES] for field in fields]
    assert all(wide > narrow for wide, narrow in zip(*sides, strict=True)), sides
    table = erf.make_table(fields).splitlines()
    assert table[0] == '| network | square of 50% | square of 80% | square of 99% |'
    assert table[2] == f'| {specs[0]} | {" | ".join(map(str, sides[0]))} |'


def test_real_images_are_cut_scaled_and_normalized(tmp_path):
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = (255, 0, 0)
    Image.fromarray(image).save(tmp_path / 'image.png')
    (inputs,) = erf.real_images([tmp_path / 'image.png'], 10)
    assert inputs.shape == (1, 3, 10, 10) and inputs.dtype == torch.float32
    expected = (torch.tensor([255.0, 0, 0]) - torch.tensor(erf.MEAN)) / torch.tensor(erf.STD)
    torch.testing.assert_close(inputs[0], expected[:, None, None].expand(3, 10, 10))


def test_images_that_are_not_rgb(tmp_path):
    Image.new('RGB', (20, 40), 'red').save(tmp_path / 'image.png')
    (gray,) = erf.real_images([tmp_path / 'image.png'], 10, channels=1)
    rgb = (torch.tensor([255.0, 0, 0]) - torch.tensor(erf.MEAN)) / torch.tensor(erf.STD)
    torch.testing.assert_close(gray, rgb.mean().expand(1, 1, 10, 10))
    with pytest.raises(UsageError, match='the network takes 4 channels: leave --images out'):
        list(erf.real_images([tmp_path / 'image.png'], 10, channels=4))
    (noise,) = erf.noise_images(1, 32, channels=4)
    field = measure_field(build_backbone("DMFormer(arch='nano', in_channels=4)"), [noise])
    assert field.shape == (32, 32) and field.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    'spec, sentence',
    [
        ('DMFormer(', 'is neither a config, which ends in .py, nor a network'),
        ("DMFormer('nano')", 'is neither a config'),
        ("os.system(command='true')", 'is neither a config'),
        ('DMFormer(arch=open)', 'is neither a config'),
        ('NoFormer', 'NoFormer cannot be built: '),
        ("DMFormer(arch='huge')", 'cannot be built: '),
        ('DMFormer(width=3)', 'cannot be built: '),
        ('nowhere.py', 'config file nowhere.py does not exist'),
    ],
)
def test_wrong_backbone_is_named(spec, sentence):
    with pytest.raises(UsageError, match=sentence):
        build_backbone(spec)


def test_log_stays_as_loud_as_it_was():
    logger = MMLogger.get_current_instance()
    level = logger.level
    build_backbone("DMFormer(arch='small')")
    load_model(str(CLASSIFIER), UNTRAINED)
    assert logger.level == level < logging.WARNING


def test_wrong_checkpoint_is_named():
    with pytest.raises(UsageError, match='a.pth stands before any config'):
        erf.split_specs(['a.pth', 'b.py'])
    with pytest.raises(UsageError, match='a.pth needs a config before it, not DMFormer'):
        build_backbone('DMFormer', 'a.pth')


def test_tool(python, tmp_path):
    pytest.importorskip('mmpretrain')
    result = python(
        TOOL, CLASSIFIER, "mmpretrain.ResNet(depth=18)", '--titles', 'ours', 'ResNet-18',
        '--side', '64', '--count', '1', '--out', 'folder/erf.png', cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert '| ours | ' in result.stdout and '| ResNet-18 | ' in result.stdout
    with Image.open(tmp_path / 'folder/erf.png') as picture:
        assert picture.width > 1.5 * picture.height
    result = python(TOOL, 'nowhere.py', cwd=tmp_path)
    assert result.returncode == 2
    assert 'error: config file nowhere.py does not exist' in result.stderr
