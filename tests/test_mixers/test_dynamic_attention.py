# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmdmformer.mixers import DynamicTokenAttention, dynamic_attention
from mmdmformer.mixers.dynamic_attention import ACTIVATIONS, toeplitz_matrix, toeplitz_product

HEADS, DIMS = 2, 4
MODES = {a: dict(activation=a) for a in ACTIVATIONS}
MODES['depthwise'] = dict(activation='none', kernel='depthwise')
modes = pytest.mark.parametrize('mode', MODES.values(), ids=MODES)


def build(window_size=(3, 5), **kwargs):
    torch.manual_seed(0)
    mixer = DynamicTokenAttention(HEADS * DIMS, HEADS, window_size, **kwargs).double()
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter)
    return mixer


def tokens(*shape):
    return torch.randn(*shape, HEADS * DIMS, generator=torch.Generator().manual_seed(1)).double()


def bias_by_loops(mixer, height, width, extra):
    """The matrix of relative positions of each head, or channel, pair by pair."""
    table = mixer.relative_position_bias_table.reshape(2 * height - 1, 2 * width - 1, -1)
    num = height * width
    bias = torch.zeros(table.shape[-1], num + extra, num + extra).double()
    for i in range(num):
        for j in range(num):
            offset = (i // width - j // width + height - 1, i % width - j % width + width - 1)
            bias[:, i + extra, j + extra] = table[offset]
    return bias


def project(mixer, x):
    """Queries, keys and values of each head: tensors of shape (B, heads, N, d)."""
    y = mixer.qk(x) if mixer.depthwise else mixer.qkv(x)
    return [
        part.reshape(*x.shape[:2], HEADS, DIMS).transpose(1, 2)
        for part in y.split(HEADS * DIMS, dim=-1)
    ]


def normalize(scores, mixer):
    centered = scores - scores.mean(-1, keepdim=True)
    scores = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    if mixer.map_norm is not None:
        scores = scores * mixer.map_norm.weight + mixer.map_norm.bias
    return scores


def attend(mixer, x, activation, bias, same_region=None, on_values=False):
    """The equations, with the whole map."""
    q, k, v = project(mixer, x)
    s = q @ k.transpose(-2, -1)
    inside, outside = (0, bias) if on_values else (bias, 0)
    allowed = torch.ones_like(s[0, 0]) if same_region is None else same_region
    maps = {
        'softmax': lambda: (s / DIMS**0.5 + inside).masked_fill(allowed == 0, -1e9).softmax(-1),
        'none': lambda: s + inside,
        'scaling': lambda: s / DIMS + inside,
        'scaling_relu': lambda: (s / DIMS + inside).clamp(min=0),
        'ln': lambda: normalize(s / DIMS**0.5 + inside, mixer),
        'ln_relu': lambda: normalize(s / DIMS**0.5 + inside, mixer).clamp(min=0),
    }
    y = (maps[activation]() + outside) * allowed @ v
    return mixer.proj(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize('on_values', [False, True], ids=['', 'rel_on_values'])
@pytest.mark.parametrize('extra', [0, 1])
@pytest.mark.parametrize('position', ['none', 'relative'])
@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_output_follows_the_equations(activation, position, extra, on_values):
    mixer = build(
        activation=activation, position=position, num_extra_tokens=extra, rel_on_values=on_values
    )
    x = tokens(3, 15 + extra)
    bias = 0
    if position == 'relative':
        bias = bias_by_loops(mixer, 3, 5, extra)
    torch.testing.assert_close(mixer(x), attend(mixer, x, activation, bias, on_values=on_values))


@pytest.mark.parametrize('extra', [0, 1])
@pytest.mark.parametrize('position', ['none', 'relative'])
@pytest.mark.parametrize('activation', ['none', 'scaling'])
def test_rearranged_product_equals_the_map(activation, position, extra, monkeypatch):
    mixer = build(activation=activation, position=position, num_extra_tokens=extra)
    x = tokens(2, 15 + extra)
    rearranged = mixer(x)
    assert mixer._is_linear_cheaper(15 + extra, None)
    monkeypatch.setattr(mixer, '_is_linear_cheaper', lambda num_tokens, mask: False)
    torch.testing.assert_close(rearranged, mixer(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ('activation', 'position', 'num_tokens', 'cheaper'),
    [
        ('scaling', 'none', 4, False),
        ('scaling', 'none', 5, True),
        ('none', 'relative', 8, False),
        ('none', 'relative', 9, True),
        ('scaling_relu', 'none', 5, False),
        ('softmax', 'none', 5, False),
    ],
)
def test_when_the_product_is_rearranged(activation, position, num_tokens, cheaper):
    mixer = build(activation=activation, position=position)
    assert mixer._is_linear_cheaper(num_tokens, None) == cheaper
    assert not mixer._is_linear_cheaper(num_tokens, torch.zeros(1, num_tokens, num_tokens))


def test_qk_scale_replaces_the_default():
    mixer, reference = build(activation='none', qk_scale=1 / DIMS), build(activation='scaling')
    torch.testing.assert_close(mixer(tokens(2, 15)), reference(tokens(2, 15)))


@pytest.mark.parametrize('num_tokens', [15, 4])
def test_depthwise_without_positions_is_query_times_mean_key(num_tokens):
    mixer = build(kernel='depthwise', activation='none', position='none')
    x = tokens(2, num_tokens)
    q, k = project(mixer, x)
    y = (q * k.mean(dim=2, keepdim=True)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixer(x), mixer.proj(y))
    order = torch.randperm(num_tokens)
    torch.testing.assert_close(mixer(x[:, order]), mixer(x)[:, order])


@pytest.mark.parametrize('per_channel', [False, True])
@pytest.mark.parametrize('extra', [0, 1])
@pytest.mark.parametrize('window_size', [(4, 4), (3, 5)])
def test_depthwise_with_positions_equals_loops(window_size, extra, per_channel):
    mixer = build(
        window_size,
        kernel='depthwise',
        activation='none',
        rel_per_channel=per_channel,
        num_extra_tokens=extra,
    )
    num = window_size[0] * window_size[1] + extra
    x = tokens(2, num)
    q, k = project(mixer, x)
    bias = bias_by_loops(mixer, *window_size, extra)
    y = torch.zeros(2, num, HEADS * DIMS).double()
    for channel in range(HEADS * DIMS):
        head, c = divmod(channel, DIMS)
        b = bias[channel if per_channel else head]
        for i in range(num):
            kernel = sum(k[:, head, j, c] * (1 / num + b[i, j]) for j in range(num))
            y[:, i, channel] = q[:, head, i, c] * kernel
    torch.testing.assert_close(mixer(x), mixer.proj(y))


@pytest.mark.parametrize('window_size', [(4, 4), (3, 5), (1, 6)])
def test_relative_positions_are_a_depthwise_convolution(window_size):
    height, width = window_size
    table = torch.randn(HEADS, 1, 2 * height - 1, 2 * width - 1).double()
    v = torch.randn(2, HEADS, height * width, DIMS).double()
    maps = v.transpose(-2, -1).reshape(2, HEADS * DIMS, height, width)
    kernels = table.flip((-2, -1)).repeat_interleave(DIMS, dim=0)
    padding = (height - 1, width - 1)
    convolved = F.conv2d(maps, kernels, padding=padding, groups=HEADS * DIMS)
    expected = convolved.reshape(2, HEADS, DIMS, height * width).transpose(-2, -1)
    torch.testing.assert_close(toeplitz_matrix(table[:, 0], window_size) @ v, expected)
    torch.testing.assert_close(toeplitz_product(table, v, window_size), expected)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_long_product_keeps_the_type(dtype):
    table, v = torch.randn(2, 1, 9, 9), torch.randn(2, 2, 25, 4)
    y = toeplitz_product(table.to(dtype), v.to(dtype), (5, 5))
    assert y.dtype == dtype
    expected = toeplitz_matrix(table[:, 0], (5, 5)) @ v
    assert (y.float() - expected).norm() < 0.02 * expected.norm()


def shifted_mask(regions):
    """An additive mask, as Swin's, of windows whose tokens have these region numbers."""
    return torch.where(regions[:, :, None] == regions[:, None], 0.0, -100.0).double()


REGIONS = torch.tensor([[0] * 15, [0] * 4 + [1] * 11, [0, 1, 2] * 5])


@pytest.mark.parametrize('on_values', [False, True], ids=['', 'rel_on_values'])
@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_masked_windows_follow_the_equations(activation, on_values):
    mixer = build(activation=activation, rel_on_values=on_values)
    x, mask = tokens(2 * len(REGIONS), 15), shifted_mask(REGIONS)
    y = mixer(x, mask)
    bias = bias_by_loops(mixer, 3, 5, 0)
    for window in range(len(x)):
        same_region = (mask[window % len(REGIONS)] == 0).double()
        expected = attend(
            mixer, x[window : window + 1], activation, bias, same_region, on_values=on_values
        )
        torch.testing.assert_close(y[window : window + 1], expected)


@pytest.mark.parametrize(
    ('position', 'per_channel'), [('none', False), ('relative', False), ('relative', True)]
)
def test_masked_depthwise_windows_follow_the_equations(position, per_channel):
    mixer = build(
        kernel='depthwise', activation='none', position=position, rel_per_channel=per_channel
    )
    x, mask = tokens(2 * len(REGIONS), 15), shifted_mask(REGIONS)
    q, k = project(mixer, x)
    for window, y in enumerate(mixer(x, mask)):
        region = (mask[window % len(REGIONS)] == 0).double()
        weights = region / region.sum(-1, keepdim=True)
        if position == 'relative':
            bias = bias_by_loops(mixer, 3, 5, 0).view(HEADS, -1, 15, 15)
            weights = weights + region * bias
        kernel = (weights @ k[window].transpose(-2, -1)[..., None]).squeeze(-1)
        if position == 'none':
            kernel = (weights @ k[window]).transpose(-2, -1)
        expected = mixer.proj((q[window] * kernel.transpose(-2, -1)).transpose(0, 1).flatten(1))
        torch.testing.assert_close(y, expected)


@pytest.mark.parametrize('position', ['none', 'relative'])
@modes
def test_regions_of_a_shifted_window_do_not_mix(mode, position):
    mixer = build(**mode, position=position)
    x, mask = tokens(1, 15), shifted_mask(REGIONS[1:2])
    changed = x.clone()
    changed[:, 4:] += 1
    y, z = mixer(x, mask), mixer(changed, mask)
    assert not torch.allclose(y[:, 4:], z[:, 4:])
    if mode['activation'].startswith('ln'):
        # The statistics are those of the whole window, and only what they scale is masked.
        assert not torch.equal(y[:, :4], z[:, :4])
    else:
        torch.testing.assert_close(y[:, :4], z[:, :4], rtol=0, atol=1e-12)


@modes
def test_class_token_has_no_relative_position(mode):
    mixer = build(**mode, num_extra_tokens=1)
    x = tokens(2, 16)
    y = mixer(x)
    torch.nn.init.normal_(mixer.relative_position_bias_table)
    z = mixer(x)
    torch.testing.assert_close(y[:, 0], z[:, 0], rtol=0, atol=1e-12)
    assert not torch.allclose(y[:, 1:], z[:, 1:])


@pytest.mark.parametrize('activation', ['scaling_relu', 'ln', 'ln_relu'])
def test_range_of_the_map(activation):
    mixer = build(activation=activation, ln_affine=False)
    attention = mixer._activate(torch.randn(2, HEADS, 15, 15).double())
    if activation.endswith('relu'):
        assert attention.min() == 0 and attention.max() > 0
    else:
        torch.testing.assert_close(attention.mean(-1), torch.zeros(2, HEADS, 15).double())
        variance = attention.var(-1, unbiased=False)
        torch.testing.assert_close(variance, torch.ones_like(variance), rtol=1e-3, atol=0)


class LargestTensor(TorchDispatchMode):
    """Records the most elements that a tensor holds that an operator returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.itemsize)
        return out


@pytest.mark.parametrize('extra', [0, 1])
@pytest.mark.parametrize('position', ['none', 'relative'])
@pytest.mark.parametrize('kernel', ['standard', 'depthwise'])
def test_memory_is_linear(kernel, position, extra):
    mixer = DynamicTokenAttention(
        64,
        2,
        (14, 14),
        activation='none' if kernel == 'depthwise' else 'scaling',
        kernel=kernel,
        position=position,
        num_extra_tokens=extra,
    )
    num = 64 * 64 + extra
    x = torch.rand(1, num, 64, requires_grad=True)
    with LargestTensor() as largest:
        mixer(x, window_size=(64, 64)).sum().backward()
    # The product by Fourier transforms pads each side to twice its length.
    assert largest.numel <= 8 * num * 64 < num**2


def test_softmax_allocates_the_map_that_the_others_do_without():
    """The measurement above would see an N x N tensor."""
    mixer = DynamicTokenAttention(64, 2, (8, 8), activation='scaling_relu', position='none')
    with LargestTensor() as largest:
        mixer(torch.rand(1, 64, 64))
    assert largest.numel == max(3 * 64 * 64, 2 * 64 * 64)
    with LargestTensor() as largest:
        mixer(torch.rand(1, 1024, 64))
    assert largest.numel == 2 * 1024**2


@pytest.mark.parametrize('kernel', ['standard', 'depthwise'])
def test_long_and_short_product_agree(kernel, monkeypatch):
    mixer = build(activation='none', kernel=kernel, num_extra_tokens=1)
    x = tokens(2, 16)
    short = mixer(x)
    monkeypatch.setattr(dynamic_attention, 'MAX_DENSE_TOKENS', 0)
    torch.testing.assert_close(mixer(x), short)


def test_table_follows_the_window():
    """An interpolated table keeps its symmetry and follows the course of the values."""
    mixer = build((5, 5), position='relative')
    ramp = torch.arange(-4.0, 5.0).double()
    table = torch.stack([ramp[:, None].expand(9, 9), ramp.expand(9, 9)]).flatten(1).t()
    mixer.relative_position_bias_table.data.copy_(table)
    bias = mixer.relative_bias((9, 7))
    assert bias.shape == (2, 63, 63)
    rows = bias[0].reshape(9, 7, 9, 7)[:, 0, :, 0]
    offsets = torch.arange(9)[:, None] - torch.arange(9)
    inner = offsets.abs() < 6  # the borders are extrapolated
    expected = 9 / 17 * offsets[inner].double()
    torch.testing.assert_close(rows[inner], expected, rtol=0, atol=0.05)  # cubic, not linear
    torch.testing.assert_close(bias, -bias.transpose(1, 2))


def test_weights_of_another_window_are_interpolated():
    small, large = build((4, 4)), build((6, 6))
    large.load_state_dict(small.state_dict())
    torch.testing.assert_close(large.relative_bias(), small.relative_bias((6, 6)))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
@modes
def test_autocast(mode, dtype):
    torch.manual_seed(0)
    mixer = DynamicTokenAttention(32, 2, (6, 6), **mode)
    x = torch.rand(2, 36, 32)
    expected = mixer(x)
    with torch.autocast('cpu', dtype):
        y = mixer(x)
    assert y.dtype == dtype
    assert (y.float() - expected).norm() < 0.05 * expected.norm()
    y.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(activation='gelu'), "activation='gelu' is unknown: choose one of softmax, none"),
        (dict(kernel='sparse'), "kernel='sparse' is unknown"),
        (dict(position='absolute'), "position='absolute' is unknown"),
        (dict(kernel='depthwise'), "activation='softmax' and qk_scale=None do not go with"),
        (dict(rel_per_channel=True), 'rel_per_channel=True needs'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


def test_wrong_number_of_heads():
    with pytest.raises(ValueError, match='embed_dims=10 must be a multiple of num_heads=4'):
        DynamicTokenAttention(10, 4, (3, 5))


def test_wrong_number_of_tokens():
    with pytest.raises(ValueError, match='16 tokens are no window of 3x5 with 0 tokens in front'):
        build()(tokens(1, 16))
    mixer = build(activation='ln', position='none')
    with pytest.raises(ValueError, match='16 tokens meet .* for 15: set ln_affine=False'):
        mixer(tokens(1, 16))
    assert build(activation='ln', position='none', ln_affine=False)(tokens(1, 16)).isfinite().all()
