# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from mmpretrain.models import SwinTransformer
from torch import nn

from mmdmformer import ConvSwin, SwinACmix
from mmdmformer.analysis.multiply_adds import count_multiply_adds
from mmdmformer.mixers import ACmixOperator, ConvolutionPath

CLASSIFIER = 769 * 1000


def count(model):
    return sum(p.numel() for p in model.parameters())


def set_rates(model, alpha, beta):
    for module in model.modules():
        if isinstance(module, ACmixOperator):
            nn.init.constant_(module.rates.alpha, alpha)
            nn.init.constant_(module.rates.beta, beta)


@pytest.mark.parametrize(('arch', 'acmix'), [('tiny', 28_649_908), ('small', 50_345_080)])
def test_parameters(arch, acmix):
    assert count(SwinACmix(arch)) + CLASSIFIER == acmix


def test_convolutions_in_place_of_attention_have_the_parameters_that_the_paper_prints():
    """Conv-Swin-T of Table 6: 39 M, as printed, but 6.1 G and not 4.5 G multiply-adds."""
    network = ConvSwin('tiny')
    assert count(network) + CLASSIFIER == 39_034_504
    assert count_multiply_adds(network, (224, 224)) == 6_083_739_648


def test_convolutions_in_place_of_attention_are_mmpretrains_swin_but_for_these():
    """The same weights in mmpretrain's Swin, whose attention modules are replaced by hand."""
    ours = ConvSwin('nano', out_indices=(0, 1, 2, 3)).double().eval()
    theirs = SwinTransformer(SwinACmix.arch_zoo['nano'], out_indices=(0, 1, 2, 3)).double()
    theirs.eval()  # which returns nothing there
    for stage in theirs.stages:
        for block in stage.blocks:
            block.attn = DenseConvolution(stage.embed_dims).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(2, 3, 96, 70).double()
    for out, expected in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(out, expected)


class DenseConvolution(nn.Module):
    """A 3x3 convolution of tokens as a product with the unfolded map."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, size):
        columns = nn.functional.unfold(x.transpose(1, 2).unflatten(2, size), 3, padding=1)
        return columns.transpose(1, 2) @ self.conv.weight.flatten(1).T + self.conv.bias


def test_without_the_convolution_path_it_is_mmpretrains_swin():
    theirs = SwinTransformer(SwinACmix.arch_zoo['nano'], out_indices=(0, 1, 2, 3)).double()
    theirs.init_weights()
    theirs.eval()  # which returns nothing there
    weights = {
        name.replace('w_msa.qkv', 'acmix.projection.qkv')
        .replace('w_msa.proj', 'acmix.attention.proj')
        .replace('w_msa.relative', 'acmix.attention.relative'): value
        for name, value in theirs.state_dict().items()
        if not name.endswith('relative_position_index')
    }
    ours = SwinACmix('nano', out_indices=(0, 1, 2, 3)).double().eval()
    difference = ours.load_state_dict(weights, strict=False)
    assert not difference.unexpected_keys
    assert all('convolution' in name or 'rates' in name for name in difference.missing_keys)
    set_rates(ours, 1, 0)
    for size in [(224, 224), (230, 301)]:  # with and without padding to whole windows
        x = torch.rand(2, 3, *size).double()
        for out, expected in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('size', [(10, 15), (7, 15), (3, 4)], ids=lambda s: f'{s[0]}x{s[1]}')
@pytest.mark.parametrize('block', [0, 1])
def test_the_convolution_path_sees_the_rolled_map(size, block):
    model = SwinACmix('nano').double()
    set_rates(model, 0, 1)
    mixer = model.stages[0].blocks[block].attn
    tokens = torch.rand(1, size[0] * size[1], 16).double()
    out = mixer(tokens, size).transpose(1, 2).unflatten(2, size)

    sides = [-(-side // 7) * 7 for side in size]
    grid = torch.zeros(1, *sides, 16, dtype=torch.double)
    grid[:, : size[0], : size[1]] = tokens.unflatten(1, size)
    shift = 3 if block == 1 and min(size) > 7 else 0
    rows, columns = ([(i + shift) % side for i in range(side)] for side in sides)
    maps = mixer.acmix.projection.qkv(grid[:, rows][:, :, columns]).permute(0, 3, 1, 2)
    rolled = ConvolutionPath.forward(mixer.acmix.convolution, maps)
    expected = torch.empty_like(rolled)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            expected[..., row, column] = rolled[..., i, j]
    torch.testing.assert_close(out, expected[:, :, : size[0], : size[1]])


def test_initial_weights_are_the_released_codes():
    model = SwinACmix('tiny')
    model.init_weights()
    mixing = model.stages[2].blocks[0].attn.acmix.convolution.mixing
    assert mixing.bias is not None
    bound = (3 * 12) ** -0.5  # torch's own: uniform, by the number of inputs
    assert 0.9 * bound < mixing.weight.abs().max() <= bound
    qkv = model.stages[2].blocks[0].attn.acmix.projection.qkv
    assert qkv.weight.std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (
            dict(arch=dict(embed_dims=16, depths=(1, 1), num_heads=(3, 3))),
            'num_heads=3 does not divide 16 channels',
        ),
        (dict(conv_kernel=2), 'kernel_size=2 must be odd'),
        (dict(rates='half'), "rates='half' is unknown"),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SwinACmix(**{'arch': 'nano', **kwargs})
