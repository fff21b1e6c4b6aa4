# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from mmdmformer.ops import multi_dilated_dwconv

CASES = [((3, 5, 7), (1, 2, 3)), ((7,), (3,)), ((3, 5, 7), (1, 1, 1)), ((1, 3), (5, 4))]


def make_inputs(kernel_sizes, channels=2, size=(5, 6), dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, *size, generator=generator, dtype=dtype)
    weights = [
        torch.randn(channels, 1, k, k, generator=generator, dtype=dtype) for k in kernel_sizes
    ]
    biases = [torch.randn(channels, generator=generator, dtype=dtype) for _ in kernel_sizes]
    return x, weights, biases


def definition(x, weights, biases, dilations):
    """The sum over branches and taps, one output position at a time."""
    out = torch.zeros_like(x)
    height, width = x.shape[-2:]
    for weight, bias, d in zip(weights, biases, dilations, strict=True):
        radius = weight.shape[-1] // 2
        out += bias[:, None, None]
        for row in range(height):
            for column in range(width):
                for i in range(-radius, radius + 1):
                    for j in range(-radius, radius + 1):
                        r, c = row + d * i, column + d * j
                        if 0 <= r < height and 0 <= c < width:
                            tap = weight[:, 0, i + radius, j + radius]
                            out[:, :, row, column] += tap * x[:, :, r, c]
    return out


@pytest.mark.parametrize(('kernel_sizes', 'dilations'), CASES)
def test_equals_the_definition(kernel_sizes, dilations):
    inputs = make_inputs(kernel_sizes)
    torch.testing.assert_close(
        multi_dilated_dwconv(*inputs, dilations), definition(*inputs, dilations)
    )


@pytest.mark.parametrize(('kernel_sizes', 'dilations'), CASES)
def test_gradients(kernel_sizes, dilations):
    x, weights, biases = make_inputs(kernel_sizes, channels=1, size=(4, 3))
    tensors = [t.requires_grad_() for t in (x, *weights, *biases)]
    n = len(weights)

    def function(x, *parameters):
        return multi_dilated_dwconv(x, parameters[:n], parameters[n:], dilations)

    assert torch.autograd.gradcheck(function, tensors)


def test_branches_of_different_number_are_refused():
    x, weights, biases = make_inputs((3, 5))
    with pytest.raises(ValueError, match='shorter'):
        multi_dilated_dwconv(x, weights, biases, (1,))
