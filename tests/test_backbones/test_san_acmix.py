# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmdmformer import SAN, SANACmix
from mmdmformer.mixers import ACmixOperator

CLASSIFIER = 2049 * 1000


def count(model):
    return sum(p.numel() for p in model.parameters())


# The published design leaves open whether the convolution path's group convolution has a bias,
# which the norm behind it would cancel; ours has none, with which the counts would be the last.
@pytest.mark.parametrize(
    ('arch', 'plain', 'acmix', 'with_bias'),
    [
        (10, 11_841_124, 11_994_612, 11_996_500),
        ('15', 16_181_310, 16_414_134, 16_416_998),
        ('19', 20_518_470, 20_829_278, 20_833_102),
    ],
)
def test_parameters(arch, plain, acmix, with_bias):
    assert count(SAN(arch)) + CLASSIFIER == plain
    model = SANACmix(arch)
    assert count(model) + CLASSIFIER == acmix
    mixers = [m for m in model.modules() if isinstance(m, ACmixOperator)]
    assert acmix + sum(len(m.convolution.shift.weight) for m in mixers) == with_bias


def test_without_the_convolution_path_it_is_san():
    plain, mixed = SAN('nano').double().eval(), SANACmix('nano').double().eval()
    missing = mixed.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    for module in mixed.modules():
        if isinstance(module, ACmixOperator):
            nn.init.ones_(module.rates.alpha), nn.init.zeros_(module.rates.beta)
    x = torch.rand(1, 3, 64, 96).double()
    torch.testing.assert_close(mixed(x), plain(x))


def test_maps_of_the_convolution_path():
    convolution = SANACmix('10').stages[0].blocks[0].mixer.convolution
    assert convolution.mixing.weight.shape == (9, 6, 1, 1) and convolution.mixing.bias is None
    assert convolution.shift.weight.shape == (64, 9, 3, 3) and convolution.shift.groups == 16


def test_windows():
    model = SAN('19')
    blocks = [stage.blocks for stage in (model.stem[3], *model.stages)]
    assert [b[0].mixer.attention.window for b in blocks] == [3, 7, 7, 7, 7]
    assert [len(b) for b in blocks] == [3, 3, 4, 6, 3]


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(conv_kernel=2), 'kernel_size=2 must be odd'),
        (
            dict(arch=dict(embed_dims=(32, 32), depths=(1, 1), kernel_sizes=(3, 4))),
            'window=4 must be odd',
        ),
        (
            dict(arch=dict(embed_dims=(32, 48), depths=(1, 1), kernel_sizes=(3, 3))),
            '12 channels cannot share weights in groups of 8',
        ),
        (
            dict(arch=dict(embed_dims=(32, 32), depths=(1,), kernel_sizes=(3, 3))),
            'one number per stage',
        ),
        (dict(arch='50'), "arch='50' is unknown: choose one of 10, 15, 19, nano"),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SANACmix(**{'arch': 'nano', **kwargs})
