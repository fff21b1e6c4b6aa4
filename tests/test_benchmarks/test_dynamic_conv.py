# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Attention computed with convolutions equals attention, in float64."""

import pytest
import torch

from dynamic_conv import (
    Projections,
    depthwise_self_attention,
    dynamic_conv,
    dynamic_conv_by_position,
    self_attention,
    static_conv,
)
from mmdmformer.mixers import DynamicConv, DynamicDepthwiseConv, DynamicTokenAttention, Linformer

CHANNELS, HEADS, SIDE = 24, 3, 7
HEAD_CHANNELS = CHANNELS // HEADS


@pytest.fixture(autouse=True)
def _in_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_equal(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def region_mask(num_windows):
    """Mask of windows with three regions each: 0 within a region, -100 elsewhere."""
    regions = torch.randint(3, (num_windows, SIDE**2))
    return -100.0 * (regions[:, :, None] != regions[:, None])


def scaled_softmax(scores):
    return (scores / HEAD_CHANNELS**0.5).softmax(2)


class TestConvolutions:
    def test_each_image_and_group_has_its_own_kernels(self):
        x, kernels = torch.rand(2, 12, 5, 6), torch.rand(2, 3, 7, 4, 3, 3)
        y = dynamic_conv(x, kernels, padding=1)
        assert y.shape == (2, 21, 5, 6)
        for image in range(2):
            for group in range(3):
                alone = torch.nn.functional.conv2d(
                    x[image, 4 * group : 4 * group + 4], kernels[image, group], padding=1
                )
                assert_equal(y[image, 7 * group : 7 * group + 7], alone)

    def test_each_position_has_its_own_kernel(self):
        x, kernels = torch.rand(2, 2, 3, 4, 5).unbind(0)
        assert_equal(dynamic_conv_by_position(x, kernels), x * kernels)

    def test_an_input_that_is_neither_image_nor_tokens_is_named(self):
        with pytest.raises(ValueError, match=r'shape \(2, 3\) is neither \(B, C, H, W\) nor'):
            static_conv(torch.rand(2, 3), torch.rand(4, 3))


class TestSoftmaxAttention:
    """Multi-head attention with all tokens as kernels."""

    def test_of_torch(self):
        attention = torch.nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)
        torch.nn.init.normal_(attention.in_proj_bias)
        x = torch.rand(2, CHANNELS, SIDE, SIDE)
        tokens = x.flatten(2).mT
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        output = attention.out_proj.weight, attention.out_proj.bias
        projections = Projections(*zip(weights, biases, strict=True), output)
        steps = self_attention(x, projections, HEADS, scaled_softmax)
        assert_equal(steps.output.flatten(2).mT, attention(tokens, tokens, tokens)[0])

    def test_shapes_of_the_steps(self):
        projections = Projections.from_layers(
            torch.nn.Linear(CHANNELS, 3 * CHANNELS, bias=False), torch.nn.Linear(CHANNELS, CHANNELS)
        )
        steps = self_attention(torch.rand(2, CHANNELS, 4, 5), projections, HEADS, scaled_softmax)
        assert [tuple(step.shape) for step in steps] == [
            (2, 24, 4, 5), (2, 3, 20, 8), (2, 60, 4, 5), (2, 60, 4, 5), (2, 24, 4, 5), (2, 24, 4, 5)
        ]  # fmt: skip

    def test_of_a_vision_transformer_with_class_token(self):
        attentions = pytest.importorskip('mmpretrain.models.utils.attention')
        attention = attentions.MultiheadAttention(CHANNELS, HEADS)
        tokens = torch.rand(2, 1 + SIDE**2, CHANNELS)
        projections = Projections.from_layers(attention.qkv, attention.proj)
        steps = self_attention(tokens.mT, projections, HEADS, scaled_softmax)
        assert_equal(steps.output.mT, attention(tokens))

    @pytest.mark.parametrize('shifted', [False, True])
    def test_of_swin(self, shifted):
        attentions = pytest.importorskip('mmpretrain.models.utils.attention')
        attention = attentions.WindowMSA(CHANNELS, (SIDE, SIDE), HEADS)
        torch.nn.init.normal_(attention.relative_position_bias_table)
        windows, mask = torch.rand(8, CHANNELS, SIDE, SIDE), None
        if shifted:  # two images of four windows, each window with its own regions
            mask = region_mask(4)
        index = attention.relative_position_index
        # [head, key, *query position], as the queries are the positions that are convolved
        bias = attention.relative_position_bias_table[index].permute(2, 1, 0)

        def activation(scores):
            maps = scores.flatten(3) / HEAD_CHANNELS**0.5 + bias
            if shifted:
                maps = maps + mask.mT.repeat(2, 1, 1)[:, None]
            return maps.softmax(2).view_as(scores)

        projections = Projections.from_layers(attention.qkv, attention.proj)
        steps = self_attention(windows, projections, HEADS, activation)
        expected = attention(windows.flatten(2).mT, mask)
        assert_equal(steps.output.flatten(2).mT, expected)


def normalize(scores):
    """Layer norm over the axis of kernels."""
    return (scores - scores.mean(2, True)) / (scores.var(2, False, True) + 1e-5).sqrt()


ACTIVATIONS = {
    'softmax': lambda scores, bias: (scores / HEAD_CHANNELS**0.5 + bias).softmax(2),
    'none': lambda scores, bias: scores + bias,
    'scaling': lambda scores, bias: scores / HEAD_CHANNELS + bias,
    'scaling_relu': lambda scores, bias: (scores / HEAD_CHANNELS + bias).relu(),
    'ln': lambda scores, bias: normalize(scores / HEAD_CHANNELS**0.5 + bias),
    'ln_relu': lambda scores, bias: normalize(scores / HEAD_CHANNELS**0.5 + bias).relu(),
}


class TestDynamicAttention:
    """Every activation and kernel of the study, with class token, windows and masks."""

    def build(self, extra_tokens=0, **settings):
        mixer = DynamicTokenAttention(
            CHANNELS, HEADS, (SIDE, SIDE), num_extra_tokens=extra_tokens, **settings
        )
        if mixer.relative_position_bias_table is not None:
            torch.nn.init.normal_(mixer.relative_position_bias_table)
        layer = mixer.qk if mixer.depthwise else mixer.qkv
        return mixer, Projections.from_layers(layer, mixer.proj)

    def bias(self, mixer, extra_tokens=0):
        """B of shape (heads, N, N), with zeros for tokens in front."""
        bias = mixer.relative_bias()
        if bias is None:
            return torch.zeros(1, extra_tokens + SIDE**2, extra_tokens + SIDE**2)
        return torch.nn.functional.pad(bias, (extra_tokens, 0, extra_tokens, 0))

    @pytest.mark.parametrize('position', ['none', 'relative'])
    @pytest.mark.parametrize('activation', ACTIVATIONS)
    def test_with_class_token(self, activation, position):
        mixer, projections = self.build(1, activation=activation, position=position)
        tokens = torch.rand(2, 1 + SIDE**2, CHANNELS)
        bias = self.bias(mixer, 1).mT
        steps = self_attention(
            tokens.mT, projections, HEADS, lambda scores: ACTIVATIONS[activation](scores, bias)
        )
        assert_equal(steps.output.mT, mixer(tokens))

    @pytest.mark.parametrize('activation', ACTIVATIONS)
    def test_in_shifted_windows(self, activation):
        """A mask is added to softmax's scores, and multiplies the other activations."""
        mixer, projections = self.build(activation=activation)
        windows = torch.rand(4, CHANNELS, SIDE, SIDE)  # two images of two windows
        mask = region_mask(2)
        bias = self.bias(mixer).mT
        kernel_mask = mask.mT.repeat(2, 1, 1)[:, None]

        def activate(scores):
            maps = scores.flatten(3)
            if activation == 'softmax':
                maps = ACTIVATIONS[activation](maps, bias + kernel_mask)
            else:
                maps = ACTIVATIONS[activation](maps, bias) * (kernel_mask == 0)
            return maps.view_as(scores)

        steps = self_attention(windows, projections, HEADS, activate)
        assert_equal(steps.output.flatten(2).mT, mixer(windows.flatten(2).mT, mask))

    def test_scaling_merges_to_one_dynamic_kernel_and_a_static_convolution(self):
        """Q K^T V / d + B V: a d x d kernel an image and head, and taps shared by its channels."""
        mixer, projections = self.build(activation='scaling')
        x = torch.rand(2, CHANNELS, SIDE, SIDE)
        query, key, value = (static_conv(x, *p) for p in projections[:3])
        keys, values = (t.flatten(2).unflatten(1, (HEADS, -1)) for t in (key, value))
        mixed = dynamic_conv(query, values @ keys.mT / HEAD_CHANNELS)
        mixed = mixed + self.convolve_with_positions(mixer, value)
        output = static_conv(mixed, *projections.output)
        assert_equal(output.flatten(2).mT, mixer(x.flatten(2).mT))

    def convolve_with_positions(self, mixer, x):
        # torch's convolution reads at i + offset, the table holds i - j
        taps = mixer.relative_position_bias_table.T.reshape(HEADS, 1, 2 * SIDE - 1, 2 * SIDE - 1)
        taps = taps.flip(2, 3).repeat_interleave(HEAD_CHANNELS, 0)
        return torch.nn.functional.conv2d(x, taps, padding=SIDE - 1, groups=CHANNELS)

    @pytest.mark.parametrize('extra_tokens', [0, 1])
    def test_depthwise_without_positions_is_one_kernel_an_image(self, extra_tokens):
        mixer, projections = self.build(
            extra_tokens, kernel='depthwise', activation='none', position='none'
        )
        tokens = torch.rand(2, extra_tokens + SIDE**2, CHANNELS)
        output = depthwise_self_attention(tokens.mT, projections, HEADS)
        assert_equal(output.mT, mixer(tokens))

    @pytest.mark.parametrize('extra_tokens', [0, 1])
    def test_depthwise_with_positions(self, extra_tokens):
        mixer, projections = self.build(extra_tokens, kernel='depthwise', activation='none')
        tokens = torch.rand(2, extra_tokens + SIDE**2, CHANNELS)
        weights = 1 / tokens.shape[1] + self.bias(mixer, extra_tokens)
        output = depthwise_self_attention(tokens.mT, projections, HEADS, weights)
        assert_equal(output.mT, mixer(tokens))

    def test_positions_of_depthwise_kernels_are_a_static_convolution_of_the_keys(self):
        mixer, projections = self.build(kernel='depthwise', activation='none')
        x = torch.rand(2, CHANNELS, SIDE, SIDE)
        query, key = (static_conv(x, *p) for p in projections[:2])
        kernels = key.mean((2, 3), keepdim=True) + self.convolve_with_positions(mixer, key)
        output = static_conv(dynamic_conv_by_position(query, kernels), *projections.output)
        assert_equal(output.flatten(2).mT, mixer(x.flatten(2).mT))

    def test_depthwise_in_shifted_windows(self):
        mixer, projections = self.build(kernel='depthwise', activation='none')
        windows = torch.rand(4, CHANNELS, SIDE, SIDE)
        mask = region_mask(2)
        seen = (mask == 0).double()
        weights = (seen / seen.sum(2, True))[:, None] + seen[:, None] * self.bias(mixer)
        output = depthwise_self_attention(windows, projections, HEADS, weights.repeat(2, 1, 1, 1))
        assert_equal(output.flatten(2).mT, mixer(windows.flatten(2).mT, mask))


def test_soft_selection_of_linformer():
    """Mixtures of averages are mixtures of all kernels of the bank."""
    mixer = Linformer(CHANNELS, HEAD_CHANNELS, grid_size=3)
    averages = mixer.pool(torch.eye(SIDE**2).view(SIDE**2, 1, SIDE, SIDE)).flatten(1).mT
    key, value = zip(mixer.key_value.weight.chunk(2), mixer.key_value.bias.chunk(2), strict=True)
    output = mixer.attention.proj
    projections = Projections(
        (mixer.query.weight, mixer.query.bias), key, value, (output.weight, output.bias)
    )
    selection = mixer.mix_keys @ averages, mixer.mix_values @ averages
    x = torch.rand(2, CHANNELS, SIDE, SIDE)
    steps = self_attention(x, projections, HEADS, scaled_softmax, selection=selection)
    assert steps.bank.shape == (2, HEADS, 9, HEAD_CHANNELS)
    assert_equal(steps.output, mixer(x))


def test_dynamic_convolution_with_a_bank_of_kernels():
    mixer = DynamicConv(6)
    x = torch.rand(2, 6, SIDE, SIDE)
    kernels = mixer.mix_kernels(mixer.select(x.mean((2, 3))))
    assert kernels.shape == (2, 6, 3, 3) and not kernels[0].allclose(kernels[1])
    assert_equal(dynamic_conv(x, kernels[:, :, None, None], padding=1), mixer(x))


def test_homogeneous_dynamic_depthwise_convolution():
    mixer = DynamicDepthwiseConv(8, kernel_size=5, homogeneous=True).eval()
    x = torch.rand(2, 8, SIDE, SIDE)
    kernels = mixer.make_kernels(x)
    assert kernels.shape == (2, 8, 5, 5) and not kernels[0].allclose(kernels[1])
    assert_equal(dynamic_conv(x, kernels[:, :, None, None], padding=2), mixer(x))


def test_dynamic_depthwise_convolution_by_position():
    """Each tap is a 1x1 kernel of each position's own, on a map that is moved."""
    mixer = DynamicDepthwiseConv(8, kernel_size=3).eval()
    x = torch.rand(2, 8, SIDE, SIDE)
    kernels, padded = mixer.make_kernels(x), torch.nn.functional.pad(x, (1,) * 4)
    assert kernels.shape == (2, 8, 9, SIDE, SIDE)
    moved = padded.unfold(2, SIDE, 1).unfold(3, SIDE, 1).flatten(2, 3)
    taps = [dynamic_conv_by_position(moved[:, :, tap], kernels[:, :, tap]) for tap in range(9)]
    assert_equal(sum(taps), mixer(x))
