# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Token mixers against the toolboxes' modules, or their formulas written out, in float64."""

import sys
from functools import partial
from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from mixer_cases import build
from mixer_cases import maps as some_maps
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdmformer import TOKEN_MIXERS

maps = partial(some_maps, dtype=torch.double)
HEADS = 2  # of 8 channels


def evaluated(**cfg):
    return build(cfg).double().eval()


def linear(layer, x):
    """A linear layer, or some rows of one, at each position of (C, positions)."""
    weight, bias = layer
    return weight @ x + bias[:, None]


def rows_of(layer, parts):
    return list(zip(layer.weight.chunk(parts), layer.bias.chunk(parts), strict=True))


def attend(q, k, v, bias=0.0):
    """Attention of one head by its definition, with (d, positions)."""
    weights = (torch.einsum('ci,cj->ij', q, k) / len(q) ** 0.5 + bias).exp()
    return torch.einsum('ij,cj->ci', weights / weights.sum(1, keepdim=True), v)


def by_head(function, *tensors):
    """Apply to each head's channels, and concatenate."""
    heads = zip(*(t.chunk(HEADS) for t in tensors), strict=True)
    return torch.cat([function(i, *head) for i, head in enumerate(heads)])


def offsets(height, width):
    places = [(y, x) for y in range(height) for x in range(width)]
    return [[(yi - yj, xi - xj) for yj, xj in places] for yi, xi in places]


def positions_from(table, head, height, width, side):
    """B of one head from a table of (2 side - 1)^2 rows, without interpolation."""
    rows = [
        [table[(dy + side - 1) * (2 * side - 1) + dx + side - 1, head] for dy, dx in row]
        for row in offsets(height, width)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def test_identity():
    x = maps(3, 4)
    assert build(dict(type='Identity'))(x).equal(x)


@pytest.mark.parametrize('kernel_size', [3, 5])
def test_pooling_is_mmpretrains(kernel_size):
    poolformer = pytest.importorskip('mmpretrain.models.backbones.poolformer')
    x = maps(6, 9)
    ours, theirs = (
        evaluated(type='Pooling', kernel_size=kernel_size),
        poolformer.Pooling(kernel_size),
    )
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize('small_kernel', [3, None])
def test_depthwise_conv_is_mmpretrains_block(small_kernel):
    replknet = pytest.importorskip('mmpretrain.models.backbones.replknet')
    block = replknet.RepLKBlock(16, 16, 7, small_kernel, 0.0).double().eval()
    block.prelkb_bn = nn.Identity()
    ours = evaluated(type='DepthwiseConv', small_kernel=small_kernel)
    names = {
        'expand.': 'pw1.conv.',
        'expand_norm.': 'pw1.bn.',
        'reduce.': 'pw2.conv.',
        'reduce_norm.': 'pw2.bn.',
        'large.0.': 'large_kernel.lkb_origin.conv.',
        'large.1.': 'large_kernel.lkb_origin.bn.',
        'small.0.': 'large_kernel.small_conv.conv.',
        'small.1.': 'large_kernel.small_conv.bn.',
    }
    renamed = {}
    for name, value in ours.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        renamed[names[prefix] + name.removeprefix(prefix)] = value
    block.load_state_dict(renamed)
    x = maps(9, 8)
    torch.testing.assert_close(x + ours(x), block(x))


def test_dilated_kernels_are_aligned():
    mixer = evaluated(type='DepthwiseConv', kernel_size=5, dilation=2)
    conv, norm = mixer.small
    large = nn.Conv2d(16, 16, 5, padding=4, dilation=2, groups=16, bias=False).double()
    large.weight.data = F.pad(conv.weight.data, (1,) * 4)
    x = maps(9, 8)
    torch.testing.assert_close(norm(large(x)), mixer.small(x))


def test_large_kernel_attention():
    mixer, x = evaluated(type='LKA'), maps(9, 8)
    parts = dict(mixer.attention.named_modules())

    def conv(name, x, **kwargs):
        layer = parts[name]
        return F.conv2d(x, layer.weight, layer.bias, **kwargs)

    u = F.gelu(conv('proj_1', x))
    near = conv('spatial_gating_unit.DW_conv', u, padding=2, groups=16)
    far = conv('spatial_gating_unit.DW_D_conv', near, padding=9, dilation=3, groups=16)
    gated = u * conv('spatial_gating_unit.conv1', far)
    torch.testing.assert_close(mixer(x), x + conv('proj_2', gated))


def test_large_kernel_attention_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmpretrain.models.backbones.van', None)
    with pytest.raises(ImportError, match=r"mixer=dict\(type='LKA'\) is mmpretrain's .* install"):
        TOKEN_MIXERS.build(dict(type='LKA'), channels=16)


def test_self_attention_is_torchs():
    mixer, x = evaluated(type='SelfAttention'), maps(5, 6)
    theirs = nn.MultiheadAttention(16, HEADS, batch_first=True).double()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = mixer.qkv.weight, mixer.qkv.bias
    theirs.out_proj.load_state_dict(mixer.attention.proj.state_dict())
    tokens = x.flatten(2).mT
    expected, _ = theirs(tokens, tokens, tokens)
    torch.testing.assert_close(mixer(x), expected.mT.view_as(x))


def test_linformer():
    mixer, x = evaluated(type='Linformer', grid_size=3), maps(7, 5)
    pooled = F.adaptive_avg_pool2d(x, 3)
    for image, y in enumerate(mixer(x)):
        tokens = x[image].flatten(1)
        key, value = rows_of(mixer.key_value, 2)
        keys, values = (linear(layer, pooled[image].flatten(1)) for layer in (key, value))
        keys, values = keys @ mixer.mix_keys.mT, values @ mixer.mix_values.mT
        query = linear((mixer.query.weight, mixer.query.bias), tokens)
        mixed = by_head(lambda _, *head: attend(*head), query, keys, values)
        expected = linear((mixer.attention.proj.weight, mixer.attention.proj.bias), mixed)
        torch.testing.assert_close(y.flatten(1), expected)


@pytest.mark.parametrize('size', [(8, 8), (7, 10), (3, 2)])
@pytest.mark.parametrize('shift', [0, 2])
def test_local_attention(size, shift):
    """Each window by itself, of its real positions alone."""
    side = 4
    mixer, x = evaluated(type='LocalAttention', window=side, shift=shift), maps(*size)
    attention, expected = mixer.attention, torch.zeros_like(x)
    table = nn.init.normal_(attention.relative_position_bias_table)
    projection = attention.proj.weight, attention.proj.bias
    borders = [sorted({0, n, *range(shift or side, n, side)}) for n in size]
    windows = [[slice(*ends) for ends in pairwise(places)] for places in borders]
    for image, (rows, columns) in product(range(2), product(*windows)):
        tokens = x[image, :, rows, columns]
        height, width = tokens.shape[1:]

        def head(i, *tensors, height=height, width=width):
            return attend(*tensors, positions_from(table, i, height, width, side))

        q, k, v = (linear(layer, tokens.flatten(1)) for layer in rows_of(attention.qkv, 3))
        out = linear(projection, by_head(head, q, k, v))
        expected[image, :, rows, columns] = out.view(-1, height, width)
    torch.testing.assert_close(mixer(x), expected)


def test_shifted_windows_are_swins():
    attentions = pytest.importorskip('mmpretrain.models.utils.attention')
    mixer, x = evaluated(type='LocalAttention', window=4, shift=2), maps(8, 12)
    theirs = attentions.ShiftWindowMSA(16, HEADS, 4, shift_size=2).double()
    theirs.w_msa.load_state_dict(mixer.attention.state_dict(), strict=False)
    expected = theirs(x.flatten(2).mT, (8, 12)).mT.view_as(x)
    torch.testing.assert_close(mixer(x), expected)


def test_dynamic_conv():
    mixer, x = evaluated(type='DynamicConv', num_kernels=3), maps(6, 7)
    nn.init.normal_(mixer.select[2].weight)
    first, _, second, _ = mixer.select
    logits = F.linear(F.relu(F.linear(x.mean((2, 3)), first.weight, first.bias)), second.weight)
    shares = (logits + second.bias).exp()
    shares = shares / shares.sum(1, keepdim=True)
    assert not shares[0].allclose(shares[1], rtol=0.01)
    results = [
        F.conv2d(x, kernel[:, None], bias, padding=1, groups=16)
        for kernel, bias in zip(mixer.bank, mixer.bias, strict=True)
    ]
    expected = sum(
        share[:, None, None, None] * y for share, y in zip(shares.mT, results, strict=True)
    )
    torch.testing.assert_close(mixer(x), expected)


def make_kernels(mixer, features):
    """The small network of dynamic depthwise convolution, with (C, positions)."""
    first, norm, _, second = mixer.generate
    hidden = first.weight[:, :, 0, 0] @ features
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    hidden = (hidden - norm.running_mean[:, None]) * scale[:, None] + norm.bias[:, None]
    return linear((second.weight[:, :, 0, 0], second.bias), hidden.clamp(min=0))


@pytest.mark.parametrize('group_channels', [1, 4])
def test_dynamic_depthwise_conv_by_position(group_channels):
    options = dict(kernel_size=3, group_channels=group_channels)
    mixer, x = evaluated(type='DynamicDepthwiseConv', **options), maps(4, 5)
    y, padded = mixer(x), F.pad(x, (1,) * 4)
    for image in range(2):
        kernels = make_kernels(mixer, x[image].flatten(1)).view(-1, 3, 3, 4, 5)
        for channel, row, column in [(0, 0, 0), (5, 2, 3), (15, 3, 4)]:
            kernel = kernels[channel // group_channels, :, :, row, column]
            seen = padded[image, channel, row : row + 3, column : column + 3]
            torch.testing.assert_close(y[image, channel, row, column], (kernel * seen).sum())


@pytest.mark.parametrize('group_channels', [1, 4])
def test_homogeneous_dynamic_depthwise_conv(group_channels):
    options = dict(homogeneous=True, group_channels=group_channels)
    mixer, x = evaluated(type='DynamicDepthwiseConv', **options), maps(9, 8)
    for image, y in zip(x, mixer(x), strict=True):
        kernels = make_kernels(mixer, image.mean((1, 2))[:, None]).view(-1, 1, 7, 7)
        every = torch.stack([kernels[channel // group_channels] for channel in range(16)])
        torch.testing.assert_close(y, F.conv2d(image, every, padding=3, groups=16))


def test_acmix():
    """Both paths at all positions, by indices that are reflected at the border."""
    side, size = 5, (4, 6)
    mixer, x = evaluated(type='ACmix', window=side), maps(*size, batch=1)
    nn.init.constant_(mixer.rates.alpha, 0.3)
    nn.init.constant_(mixer.rates.beta, -1.7)
    nn.init.normal_(mixer.convolution.shift.weight)
    projection = mixer.projection
    q, k, v = (
        linear((layer.weight[:, :, 0, 0], layer.bias), x[0].flatten(1)).view(16, *size)
        for layer in (projection.query, projection.key, projection.value)
    )

    def reflect(i, n):
        return (n - 1) - abs((n - 1) - abs(i))

    def encode(y, x):
        place = torch.tensor([2 * x / (size[1] - 1) - 1, 2 * y / (size[0] - 1) - 1]).double()
        return mixer.attention.position.weight[:, :, 0, 0] @ place

    attended = torch.zeros(16, *size, dtype=torch.double)
    around = range(-(side // 2), side // 2 + 1)
    for y in range(size[0]):
        for column in range(size[1]):
            places = [
                (reflect(y + i, size[0]), reflect(column + j, size[1]))
                for i in around
                for j in around
            ]
            for head in (slice(0, 8), slice(8, 16)):
                query = q[head, y, column]
                logits = torch.stack(
                    [query @ (k[head, i, j] + encode(y, column) - encode(i, j)) for i, j in places]
                )
                weights = (logits / 8**0.5).softmax(0)
                values = torch.stack([v[head, i, j] for i, j in places])
                attended[head, y, column] = weights @ values

    maps_of_heads = torch.stack([*q.chunk(2), *k.chunk(2), *v.chunk(2)])  # (3 N, d, H, W)
    mixed = torch.einsum(
        'mt,tcyx->cmyx', mixer.convolution.mixing.weight[:, :, 0, 0], maps_of_heads
    )
    kernels = mixer.convolution.shift.weight.unflatten(0, (8, 2))  # of N outputs for each channel
    convolved = torch.cat(
        [F.conv2d(one, kernel, padding=1) for one, kernel in zip(mixed, kernels, strict=True)]
    )
    torch.testing.assert_close(mixer(x)[0], 0.3 * attended - 1.7 * convolved)


ACTIVATIONS = {
    'softmax': lambda s, b: (s / 8**0.5 + b).softmax(-1),
    'none': lambda s, b: s + b,
    'scaling': lambda s, b: s / 8 + b,
    'scaling_relu': lambda s, b: (s / 8 + b).clamp(min=0),
    'ln': lambda s, b: standardize(s / 8**0.5 + b),
    'ln_relu': lambda s, b: standardize(s / 8**0.5 + b).clamp(min=0),
}


def standardize(scores):
    return (scores - scores.mean(-1, True)) / (scores.var(-1, False, True) + 1e-5).sqrt()


def resized_positions(table, head, height, width, side):
    """B of one head from a table that torch interpolates for all offsets of the map."""
    grid = table[:, head].view(1, 1, 2 * side - 1, 2 * side - 1)
    grid = F.interpolate(grid, (2 * height - 1, 2 * width - 1), mode='bicubic')[0, 0]
    rows = [
        [grid[dy + height - 1, dx + width - 1] for dy, dx in row] for row in offsets(height, width)
    ]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('size', [(4, 4), (3, 5)])
def test_dynamic_attention(activation, size):
    mixer = evaluated(type='DynamicAttention', activation=activation, grid_size=4)
    assert not any('map_norm' in name for name in mixer.state_dict())
    table = nn.init.normal_(mixer.attention.relative_position_bias_table)
    for image, y in zip(x := maps(*size), mixer(x), strict=True):
        layers = rows_of(mixer.attention.qkv, 3)
        q, k, v = (linear(layer, image.flatten(1)) for layer in layers)

        def head(i, q, k, v):
            bias = resized_positions(table, i, *size, 4)
            return v @ ACTIVATIONS[activation](q.mT @ k, bias).mT

        projection = mixer.attention.proj
        expected = linear((projection.weight, projection.bias), by_head(head, q, k, v))
        torch.testing.assert_close(y.flatten(1), expected)


@pytest.mark.parametrize('size', [(4, 4), (3, 5)])
def test_depthwise_dynamic_attention(size):
    options = dict(activation='none', kernel='depthwise', grid_size=4)
    mixer = evaluated(type='DynamicAttention', **options)
    table = nn.init.normal_(mixer.attention.relative_position_bias_table)
    for image, y in zip(x := maps(*size), mixer(x), strict=True):
        q, k = (linear(layer, image.flatten(1)) for layer in rows_of(mixer.attention.qk, 2))

        def head(i, q, k):
            bias = resized_positions(table, i, *size, 4)
            return q * (k.mean(1, keepdim=True) + k @ bias.mT)

        projection = mixer.attention.proj
        expected = linear((projection.weight, projection.bias), by_head(head, q, k))
        torch.testing.assert_close(y.flatten(1), expected)


@pytest.mark.parametrize('activation', ['softmax', 'none', 'scaling', 'scaling_relu'])
def test_dynamic_attention_in_windows(activation):
    """Real positions alone, in windows that reach beyond the map as well."""
    options = dict(activation=activation, window=3)
    mixer, x = evaluated(type='DynamicAttention', **options), maps(4, 5, batch=1)
    table = nn.init.normal_(mixer.attention.relative_position_bias_table)
    y = mixer(x)[0]
    for rows in (slice(0, 3), slice(3, 4)):
        for columns in (slice(0, 3), slice(3, 5)):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            tokens = x[0, :, rows, columns].flatten(1)
            q, k, v = (linear(layer, tokens) for layer in rows_of(mixer.attention.qkv, 3))

            def head(i, q, k, v, height=height, width=width):
                bias = positions_from(table, i, height, width, 3)
                return v @ ACTIVATIONS[activation](q.mT @ k, bias).mT

            projection = mixer.attention.proj
            expected = linear((projection.weight, projection.bias), by_head(head, q, k, v))
            torch.testing.assert_close(y[:, rows, columns].flatten(1), expected)


# Multiply-adds as the docstrings say, with heads of 8 channels.
HW, C, D = 6 * 8, 16, 8
COSTS = {
    'Identity': (dict(), 0),
    'Pooling': (dict(), 0),
    'DepthwiseConv': (dict(), HW * C * (2 * C + 49 + 9)),
    'LKA': (dict(), HW * C * (3 * C + 25 + 49)),
    'SelfAttention': (dict(), HW * C * (4 * C + 2 * HW)),
    'Linformer': (
        dict(grid_size=3),
        HW * C * (2 * C + 2 * 9) + 2 * 9 * C * (C + 9) + 3 * HW * C + 9 * 8 * C,
    ),
    'LocalAttention': (dict(window=2), HW * C * (4 * C + 2 * 4)),
    'DynamicConv': (dict(), HW * C * 9 + C**2 // 4 + 4 * C // 4 + 4 * C * (9 + 1)),
    'ACmix': (dict(), HW * C * (3 * C + 2 * 49 + 27 + 81) + 2 * HW * D),
    'DynamicAttention': (dict(), HW * C * (4 * C + 2 * HW)),
    'DynamicAttention, scaling': (dict(activation='scaling'), HW * C * (4 * C + 2 * D + HW)),
    'DynamicAttention, depthwise': (
        dict(activation='none', kernel='depthwise'),
        HW * C * (3 * C + HW),
    ),
    # The products with kernels of each position's own are no convolution to a counter.
    'DynamicDepthwiseConv': (dict(), HW * (C**2 // 4 + C * C * 49 // 4)),
    'DynamicDepthwiseConv, homogeneous': (
        dict(homogeneous=True),
        HW * C * 49 + C**2 // 4 + C * C * 49 // 4,
    ),
}


@pytest.mark.parametrize(('name', 'options', 'expected'), [(n, *c) for n, c in COSTS.items()])
def test_costs(name, options, expected):
    """On the meta device, where the counter sees the products of fused attention."""
    mixer = build(dict(type=name.partition(',')[0], **options)).eval().to('meta')
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        mixer(some_maps(6, 8, batch=1).to('meta'))
    assert counter.get_total_flops() / 2 == expected
