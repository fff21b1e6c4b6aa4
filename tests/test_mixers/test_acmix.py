# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""ACmix against its formulas, written out in another way and in double precision."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmengine.analysis import get_model_complexity_info
from torch import nn

from mmdmformer.mixers import ACmixOperator, ConvolutionPath, PathRates
from mmdmformer.mixers.acmix_attention import (
    PatchwiseAttention,
    QKVProjection,
    ShiftedWindowAttention,
    TokenAttention,
    TokenConvolutionPath,
    WindowAttention,
)


def acmix(in_channels=16, channels=16, heads=4, window=7, stride=1, **kwargs):
    rates = kwargs.pop('rates', 'learned')
    return ACmixOperator(
        QKVProjection(in_channels, (channels,) * 3),
        WindowAttention(channels, heads, window, stride),
        ConvolutionPath(3 * heads, channels // heads, channels, stride=stride, **kwargs),
        rates,
    ).double()


def random(*shape):
    return torch.randn(*shape, dtype=torch.double)


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel_size', [3, 5])
def test_convolution_path_is_a_convolution(kernel_size, stride):
    k, d = kernel_size, 5
    path = ConvolutionPath(3, d, d, kernel_size, stride).double()
    dense = torch.zeros(d, 3 * d, k, k, dtype=torch.double)
    for channel in range(d):
        for source in range(3):
            weight = path.mixing.weight.detach()[:, source, 0, 0]
            dense[channel, source * d + channel] = weight.view(k, k)
    maps = random(2, 3 * d, 9, 12)
    torch.testing.assert_close(path(maps), F.conv2d(maps, dense, None, stride, k // 2))


def test_convolution_path_by_indices():
    """Order of maps and channels with several heads, and kernels that are no shifts."""
    heads, d, size = 3, 4, 6
    path = ConvolutionPath(3 * heads, d, heads * d, mixing_bias=True, shift='random').double()
    maps = random(1, 3 * heads * d, size, size)
    named = maps.view(3 * heads, d, size, size)
    mixed = torch.einsum('mt,tcyx->cmyx', path.mixing.weight[:, :, 0, 0], named)
    mixed = F.pad(mixed + path.mixing.bias[:, None, None], (1,) * 4)
    c, n, y, x = 2, 1, 5, 3
    expected = (mixed[c, :, y : y + 3, x : x + 3] * path.shift.weight[c * heads + n]).sum()
    torch.testing.assert_close(path(maps)[0, c * heads + n, y, x], expected)
    path.align_heads = True
    torch.testing.assert_close(path(maps)[0, n * d + c, y, x], expected)


@pytest.mark.parametrize('stride', [1, 2])
def test_attention_by_its_formula(stride):
    heads, d, size = 2, 3, (6, 9)
    path = WindowAttention(heads * d, heads, 5, stride).double()
    q, k, v = random(3, 1, heads * d, *size)

    def reflected(i, side):
        return (side - 1) - abs((side - 1) - abs(i))

    def position(y, x):
        xy = torch.tensor([2 * x / (size[1] - 1) - 1, 2 * y / (size[0] - 1) - 1]).double()
        return path.position.weight[:, :, 0, 0] @ xy + path.position.bias

    out = path(q, k, v)
    for head, y, x in [(0, 0, 0), (1, 4, 8), (1, 2, 4)]:
        channels = slice(head * d, head * d + d)
        query = q[0, channels, y, x]
        neighbors = [
            (reflected(y + i, size[0]), reflected(x + j, size[1]))
            for i in range(-2, 3)
            for j in range(-2, 3)
        ]
        logits = torch.stack(
            [
                query @ (k[0, channels, a, b] + position(y, x) - position(a, b)) / math.sqrt(d)
                for a, b in neighbors
            ]
        )
        values = torch.stack([v[0, channels, a, b] for a, b in neighbors])
        expected = logits.softmax(0) @ values
        torch.testing.assert_close(out[0, channels, y // stride, x // stride], expected)


def test_patchwise_attention_by_its_formula():
    relations, channels, window, share = 3, 16, 3, 8
    path = PatchwiseAttention(relations, channels, window, share).double().eval()
    for module in path.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean), nn.init.uniform_(module.running_var, 0.5, 2)
    q, k = random(2, 1, relations, 5, 6)
    v = random(1, channels, 5, 6)
    padded_k, padded_v = (F.pad(x, (1,) * 4, mode='reflect') for x in (k, v))
    y, x = 4, 0
    seen = padded_k[0, :, y : y + 3, x : x + 3].flatten()
    weights = path.weights(torch.cat((q[0, :, y, x], seen))[None, :, None, None]).view(-1, 9)
    for channel in (0, 7, 11):
        expected = weights[channel % 2] @ padded_v[0, channel, y : y + 3, x : x + 3].flatten()
        torch.testing.assert_close(path(q, k, v)[0, channel, y, x], expected)


def test_constant_values_stay_constant():
    q, k = random(2, 1, 8, 14, 14)
    v = torch.full_like(q, 1.5)
    torch.testing.assert_close(WindowAttention(8, 2).double()(q, k, v), v)
    shifted = ShiftedWindowAttention(8, 2).double()
    shifted.proj = nn.Identity()
    shifted.proj.in_features = 8
    qkv = torch.cat((q, k, v), 1).permute(0, 2, 3, 1)
    for shift in (0, 3):
        torch.testing.assert_close(shifted(qkv, shift), v)
    tokens = TokenAttention(8, 2).double()
    tokens.proj = nn.Identity()
    query, key_value = (x.flatten(2).transpose(1, 2) for x in (q, torch.cat((k, v), 1)))
    torch.testing.assert_close(tokens(query, key_value), v.flatten(2).transpose(1, 2))


@pytest.mark.parametrize('size', [(8, 8), (9, 6), (3, 3), (1, 5)], ids=lambda s: f'{s[0]}x{s[1]}')
@pytest.mark.parametrize('shift', ['learned', 'tensor'])
def test_a_stride_skips_outputs(size, shift):
    plain, strided = acmix(8, 16, shift=shift), acmix(8, 16, stride=2, shift=shift)
    strided.load_state_dict(plain.state_dict())
    x = random(2, 8, *size)
    out = strided(x)
    assert out.shape == (2, 16, -(-size[0] // 2), -(-size[1] // 2))
    torch.testing.assert_close(out, plain(x)[:, :, ::2, ::2])


def test_paths_are_halved_at_first():
    mixer, x = acmix(), random(1, 16, 9, 9)
    assert mixer.rates.alpha.tolist() == mixer.rates.beta.tolist() == [0.5]
    q, k, v = mixer.projection(x)[0]
    expected = (mixer.attention(q, k, v) + mixer.convolution(q, k, v)) / 2
    torch.testing.assert_close(mixer(x), expected)


@pytest.mark.parametrize(
    ('rates', 'alpha', 'beta', 'learned'),
    [
        ('learned', 0.5, 0.5, {'alpha', 'beta'}),
        ('attention', 1, 0, set()),
        ('convolution', 0, 1, set()),
        ('fixed', 1, 1, set()),
        ('learned_alpha', 0.5, 1, {'alpha'}),
        ('learned_beta', 1, 0.5, {'beta'}),
        ('complementary', 0.5, 0.5, {'alpha'}),
    ],
)
def test_combinations_of_table_6(rates, alpha, beta, learned):
    mixer, x = acmix(rates=rates), random(1, 16, 9, 9)
    both = acmix(rates='fixed')
    both.load_state_dict(mixer.state_dict(), strict=False)
    q, k, v = both.projection(x)[0]
    expected = alpha * both.attention(q, k, v) + beta * both.convolution(q, k, v)
    out = mixer(x)
    torch.testing.assert_close(out, expected)
    assert {name for name, _ in mixer.rates.named_parameters()} == learned
    assert (mixer.attention is None) == (rates == 'convolution')
    assert (mixer.convolution is None) == (rates == 'attention')
    out.pow(2).sum().backward()
    assert all(p.grad is not None for p in mixer.parameters())


def test_complementary_rates_sum_to_one():
    rates = PathRates('complementary')
    nn.init.constant_(rates.alpha, 0.3)
    assert rates(torch.tensor([10.0]), torch.tensor([0.0])).item() == pytest.approx(3)
    assert rates(torch.tensor([0.0]), torch.tensor([10.0])).item() == pytest.approx(7)


def test_shifts_of_table_7():
    paths = {s: ConvolutionPath(6, 4, 8, shift=s).double() for s in ('learned', 'fixed', 'tensor')}
    for path in paths.values():
        path.mixing = paths['learned'].mixing
    maps = random(2, 24, 7, 6)
    for path in paths.values():
        torch.testing.assert_close(path(maps), paths['learned'](maps))

    def learned(shift):
        return {n for n, _ in ConvolutionPath(6, 4, 8, shift=shift).named_parameters()}

    assert learned('learned') == learned('random') == {'mixing.weight', 'shift.weight'}
    assert learned('fixed') == learned('tensor') == {'mixing.weight'}
    assert 'shift.weight' in ConvolutionPath(6, 4, 8, shift='fixed').state_dict()
    kernels = ConvolutionPath(6, 4, 8, shift='random').shift.weight
    assert kernels.std().item() == pytest.approx(math.sqrt(2 / (8 * 9)), rel=0.1)


def test_class_tokens_get_nothing_of_the_convolution_path():
    path = TokenConvolutionPath(1, 3, 4, 4).double()
    maps = random(2, 12, 5, 6)
    out = path(maps)
    assert out.shape == (2, 31, 4) and not out[:, 0].any()
    expected = ConvolutionPath.forward(path, maps)
    torch.testing.assert_close(out[:, 1:].transpose(1, 2).view(2, 4, 5, 6), expected)


@pytest.mark.parametrize('window', [3, 7])
def test_parameters_and_multiply_adds(window):
    c_in, c, heads, height, width = 24, 32, 4, 10, 12
    mixer = acmix(c_in, c, heads, window).float()
    parameters = 3 * (c_in * c + c) + 3 * heads * 9 + 81 * c + 2 + 3 * (c // heads)
    assert sum(p.numel() for p in mixer.parameters()) == parameters
    pixels = height * width
    counted = get_model_complexity_info(
        mixer, (c_in, height, width), show_table=False, show_arch=False
    )['flops']
    position = 2 * (c // heads) * pixels  # which the paper's formula leaves out
    per_channel = 3 * c_in + 27 + 81 + 2 * window**2
    assert counted == per_channel * c * pixels + position


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: WindowAttention(16, 3), 'num_heads=3 does not divide 16 .*: .* 1, 2, 4, 8, 16'),
        (lambda: TokenAttention(16, 0), 'num_heads=0 does not divide'),
        (lambda: WindowAttention(16, 4, 6), 'window=6 must be odd'),
        (lambda: PatchwiseAttention(2, 16, 4), 'window=4 must be odd'),
        (lambda: PatchwiseAttention(2, 12, 3), '12 channels cannot share weights in groups of 8'),
        (lambda: ConvolutionPath(3, 4, 8, 4), 'kernel_size=4 must be odd and positive'),
        (lambda: ConvolutionPath(3, 3, 8), 'cannot divide 8 channels among .* head_dim=3'),
        (lambda: ConvolutionPath(3, 4, 8, shift='shift'), "shift='shift' is unknown: .* tensor"),
        (lambda: PathRates('both'), "rates='both' is unknown: choose one of learned"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
