# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmpretrain.models import ResNet
from torch import nn

from mmdmformer import BottleneckResNet, ResNetACmix
from mmdmformer.mixers import ACmixOperator

CLASSIFIER = 2049 * 1000


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ('arch', 'plain', 'acmix'),
    [
        ('26', 13_696_552, 10_487_816),
        ('38', 19_626_792, 14_410_896),
        (50, 25_557_032, 18_333_976),
    ],
)
def test_parameters(arch, plain, acmix):
    assert count(BottleneckResNet(arch)) + CLASSIFIER == plain
    assert count(ResNetACmix(arch)) + CLASSIFIER == acmix


def test_the_plain_network_is_mmpretrains():
    ours = BottleneckResNet('50', out_indices=(0, 1, 2, 3)).eval()
    theirs = ResNet(50, out_indices=(0, 1, 2, 3))
    theirs.eval()  # which returns nothing there
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1, 3, 64, 96)
    for out, expected in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(out, expected)


def test_every_bottleneck_mixes_and_strides():
    model = ResNetACmix('26')
    mixers = [m for m in model.modules() if isinstance(m, ACmixOperator)]
    assert [m.attention.stride for m in mixers] == [1, 2, 1, 2, 1, 1, 1, 2]
    assert all(m.convolution.shift.stride == m.attention.stride for m in mixers)
    kernels = [m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert kernels.count((7, 7)) == 1 and (3, 3) not in kernels


def test_the_attention_path_alone_is_stand_alone_self_attention():
    mixed, attention = (
        ResNetACmix('nano', rates=r).double().eval() for r in ('learned', 'attention')
    )
    attention.load_state_dict(mixed.state_dict(), strict=False)
    for module in mixed.modules():
        if isinstance(module, ACmixOperator):
            nn.init.ones_(module.rates.alpha), nn.init.zeros_(module.rates.beta)
    x = torch.rand(1, 3, 64, 96).double()
    torch.testing.assert_close(mixed(x), attention(x))


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (
            dict(num_heads=3),
            'num_heads=3 does not divide 16 channels: choose one of 1, 2, 4, 8, 16',
        ),
        (dict(window_size=6), 'window=6 must be odd'),
        (dict(conv_kernel=2), 'kernel_size=2 must be odd'),
        (dict(dilations=(1, 1, 2, 4)), r'dilations=\(1, 1, 2, 4\) is not possible, .* of 1'),
        (dict(arch='18'), "arch='18' is unknown: choose one of 26, 38, 50, nano"),
        (dict(arch=dict(depths=(1, 1))), 'exactly the keys base_channels, depths'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ResNetACmix(**{'arch': 'nano', **kwargs})
