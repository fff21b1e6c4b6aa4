# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from counting import count
from mmpretrain.models import SwinTransformer
from torch import nn

from mmdmformer.backbones import DynamicSwin

SCALING = dict(activation='scaling')
DEPTHWISE = dict(activation='none', kernel='depthwise')
# Without layer norms, whose statistics are those of the whole window, joined regions or not.
MODES = {a: dict(activation=a) for a in ('softmax', 'none', 'scaling', 'scaling_relu')}
MODES['depthwise'] = DEPTHWISE
# Arguments; parameters with 1000 classes; multiply-adds and activations without them, at 224 px.
VARIANTS = {
    'T softmax': (dict(), 28_288_354, 4_508_464_128, 17_054_352),
    'T scaling': (SCALING, 28_288_354, 4_508_464_128, 17_054_352),
    'T depthwise': (DEPTHWISE, 26_127_394, 4_141_363_968, 14_112_000),
    'T depthwise, positions per channel': (
        dict(**DEPTHWISE, rel_per_channel=True),
        26_850_376,
        4_141_363_968,
        14_112_000,
    ),
    'B softmax': (dict(arch='base'), 87_768_224, 15_466_852_352, 36_625_344),
    'B scaling, mask by einsum': (
        dict(arch='base', **SCALING, mask_by_einsum=True),
        87_768_224,
        15_468_004_832,
        38_930_304,
    ),
    'B depthwise': (dict(arch='base', **DEPTHWISE), 80_776_608, 14_191_930_368, 30_256_128),
}


def build(**kwargs):
    """A nano network with large random weights, so that everything takes part."""
    torch.manual_seed(0)
    model = DynamicSwin('nano', **kwargs).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ('kwargs', 'parameters', 'multiply_adds', 'activations'),
    VARIANTS.values(),
    ids=VARIANTS,
)
def test_published_sizes(kwargs, parameters, multiply_adds, activations):
    model = DynamicSwin(**kwargs)
    channels = model.out_channels[-1]
    assert num_parameters(model) + channels * 1000 + 1000 == parameters
    pooled = nn.Sequential(model, TakeLast(), nn.AdaptiveAvgPool2d(1))
    assert count(pooled) == (multiply_adds, activations)


class TakeLast(nn.Module):
    def forward(self, outs):
        return outs[-1]


def test_size_of_affine_maps():
    plain, affine = (num_parameters(DynamicSwin(activation='ln', ln_affine=a)) for a in (0, 1))
    assert affine - plain == 1_176


@pytest.mark.parametrize(
    ('kwargs', 'stock_kwargs'),
    [
        (dict(), dict()),
        (dict(pad_small_map=True), dict(pad_small_map=True)),
        (dict(position='absolute'), dict(use_abs_pos_embed=True)),
    ],
    ids=['relative', 'padded', 'absolute'],
)
@pytest.mark.parametrize('size', [(224, 224), (256, 232)])
def test_softmax_equals_mmpretrain(kwargs, stock_kwargs, size):
    model = build(**kwargs, out_indices=(0, 1, 2, 3))
    stock = SwinTransformer(model.arch_zoo['nano'], out_indices=(0, 1, 2, 3), **stock_kwargs)
    stock.double().eval()
    weights = stock.state_dict()
    for name, value in model.state_dict().items():
        weights[name].copy_(value)
    for block in (b for stage in stock.stages for b in stage.blocks):
        if 'absolute' in kwargs.values():
            nn.init.zeros_(block.attn.w_msa.relative_position_bias_table)
    x = torch.rand(2, 3, *size).double()
    for out, expected in zip(model(x), stock(x), strict=True):
        torch.testing.assert_close(out, expected)


def test_weights_of_mmpretrain_load():
    stock = SwinTransformer(DynamicSwin.arch_zoo['nano'])
    model = DynamicSwin('nano')
    model.load_state_dict(stock.state_dict())
    table = 'stages.1.blocks.1.attn.w_msa.relative_position_bias_table'
    assert model.state_dict()[table].equal(stock.state_dict()[table])


def test_weights_of_another_window_are_interpolated():
    small, large = build(), build(window_size=12)
    large.load_state_dict(small.state_dict())
    source, result = (m.stages[2].blocks[1].attn.w_msa for m in (small, large))
    assert result.relative_position_bias_table.shape == (23 * 23, 4)
    torch.testing.assert_close(result.relative_bias(), source.relative_bias((12, 12)))


@pytest.mark.parametrize('mode', MODES.values(), ids=MODES)
def test_blocks_equal_windows_cut_by_hand(mode):
    """A shifted block, region by region: what the cyclic shift joins does not mix."""
    model = build(**mode)
    attention = model.stages[0].blocks[1].attn
    assert attention.shift_size == 3
    x = torch.randn(1, 14 * 14, 16).double()
    y = attention(x, (14, 14)).view(14, 14, 16)
    x = x.view(14, 14, 16)
    w_msa = attention.w_msa
    cuts = [slice(0, 3), slice(3, 10), slice(10, 14)]
    for rows in cuts:
        for columns in cuts:
            region = x[rows, columns]
            size = tuple(region.shape[:2])
            part = w_msa(*as_masked_window(region, size))
            kept = torch.zeros(7, 7, dtype=torch.bool)
            kept[: size[0], : size[1]] = True
            torch.testing.assert_close(y[rows, columns].flatten(0, 1), part[0][kept.flatten()])


@pytest.mark.parametrize('activation', ['none', 'scaling', 'scaling_relu', 'ln'])
def test_masking_by_einsum_gives_the_same(activation):
    plain, by_einsum = (build(activation=activation, mask_by_einsum=b) for b in (False, True))
    by_einsum.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 224, 224).double()
    torch.testing.assert_close(by_einsum(x), plain(x), rtol=0, atol=0)


def as_masked_window(region, size):
    """A window with the region in its corner, and the mask that separates it from the rest."""
    window = torch.randn(7, 7, region.shape[-1]).double()
    window[: size[0], : size[1]] = region
    inside = torch.zeros(7, 7)
    inside[: size[0], : size[1]] = 1
    inside = inside.flatten()
    mask = torch.where(inside[:, None] == inside, 0.0, -100.0).double()
    return window.view(1, 49, -1), mask[None]


def test_initial_values():
    model = DynamicSwin('tiny', position='absolute')
    model.init_weights()
    assert model.absolute_pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    block = model.stages[2].blocks[0]
    assert block.attn.w_msa.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not any('relative_position' in name for name in model.state_dict())


def test_drop_path_rises_linearly():
    model = DynamicSwin('tiny', drop_path_rate=0.2)
    blocks = [block for stage in model.stages for block in stage.blocks]
    expected = pytest.approx([0.2 * i / 11 for i in range(12)])
    assert [block.attn.drop.drop_prob for block in blocks] == expected
    assert [block.ffn.dropout_layer.drop_prob for block in blocks] == expected


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='huge'), "arch='huge' is unknown: choose one of t, tiny, b, base, nano"),
        (dict(arch=dict(depths=(1,))), 'must have exactly the keys depths, embed_dims, num_heads'),
        (
            dict(arch=dict(embed_dims=8, depths=(1, 1), num_heads=(1,))),
            'must give one number per stage',
        ),
        (dict(position='none'), "position='none' is unknown: choose absolute or relative"),
        (dict(drop_path_rate=1.0), 'drop_path_rate=1.0 must be'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DynamicSwin(**{'arch': 'nano', **kwargs})


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
@pytest.mark.parametrize('mode', [dict(), dict(activation='ln'), DEPTHWISE])
def test_pure_half_precision(dtype, mode):
    """mmpretrain makes the mask of shifted windows in single precision."""
    torch.manual_seed(0)
    model = DynamicSwin('nano', window_size=4, out_indices=(0,), **mode).eval()
    image = torch.rand(1, 3, 64, 64)
    (expected,) = model(image)
    (out,) = model.to(dtype)(image.to(dtype))
    assert out.dtype == dtype
    assert (out - expected).norm() / expected.norm() < 0.03
