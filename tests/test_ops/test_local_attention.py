# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Tiles and taps against windows that are copied out for every position."""

import pytest
import torch

from mmdmformer.ops.local_attention import (
    aggregate,
    aggregate_reference,
    pad_by_reflection,
    window_attention,
    window_attention_reference,
)

SIZES = [(20, 33), (21, 30), (9, 4), (3, 5), (1, 1)]


def random(*shape):
    return torch.randn(*shape, dtype=torch.double, requires_grad=True)


def assert_same_with_gradients(function, reference, inputs):
    out, expected = function(*inputs), reference(*inputs)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(out)
    grads = (torch.autograd.grad(y, inputs, grad) for y in (out, expected))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('size', SIZES, ids=lambda s: f'{s[0]}x{s[1]}')
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('window', [1, 3, 7])
def test_tiles_are_windows(size, stride, window):
    height, width = size
    q = random(2, 8, -(-height // stride), -(-width // stride))
    k, v = random(2, 8, height, width), random(2, 8, height, width)
    assert_same_with_gradients(
        lambda *x: window_attention(*x, 2, window, stride),
        lambda *x: window_attention_reference(*x, 2, window, stride),
        (q, k, v),
    )


@pytest.mark.parametrize('size', SIZES, ids=lambda s: f'{s[0]}x{s[1]}')
def test_taps_are_windows(size):
    assert_same_with_gradients(
        lambda *x: aggregate(*x, 5),
        lambda *x: aggregate_reference(*x, 5),
        (random(2, 3, 25, *size), random(2, 12, *size)),
    )


def test_channels_share_weights_modulo_their_number():
    weights, values = random(1, 2, 9, 4, 5), random(1, 6, 4, 5)
    padded = torch.nn.functional.pad(values, (1,) * 4, mode='reflect')
    expected = sum(
        weights[0, 5 % 2, 3 * i + j, 2, 1] * padded[0, 5, 2 + i, 1 + j]
        for i in range(3)
        for j in range(3)
    )
    torch.testing.assert_close(aggregate(weights, values, 3)[0, 5, 2, 1], expected)


def test_half_precision_sums_in_single():
    weights, values = torch.rand(1, 1, 49, 9, 9), torch.rand(1, 1, 9, 9)
    weights, values = weights.bfloat16(), values.bfloat16()
    exact = aggregate(weights.double(), values.double(), 7)
    # Rounding the result alone errs by at most 2^-9 of it.
    torch.testing.assert_close(aggregate(weights, values, 7).double(), exact, rtol=2**-8, atol=0)


def test_maps_too_small_to_reflect_repeat_their_border():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert pad_by_reflection(x, 3)[0, 0, 3].tolist() == [0, 0, 0, 0, 1, 2, 2, 2, 2]
    assert pad_by_reflection(x, 1)[0, 0, 1].tolist() == [1, 0, 1, 2, 1]


def test_no_copies_for_each_position():
    def saved_floats(function):
        tensors = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: tensors.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
        ):
            function()
        return sum(t.untyped_storage().nbytes() // 4 for t in tensors.values())

    q, k, v = (torch.rand(1, 16, 64, 64, requires_grad=True) for _ in range(3))
    weights = torch.rand(1, 2, 49, 64, 64, requires_grad=True)
    # Keys and values are held (14 / 8)^2 = 3.1 times, queries and outputs once or twice.
    assert saved_floats(lambda: window_attention(q, k, v, 4, 7)) < 11 * q.numel()
    assert saved_floats(lambda: window_attention_reference(q, k, v, 4, 7)) > 98 * q.numel()
    held = weights.numel() + v.numel() + 16 * 70**2  # the last is v with its padding
    assert saved_floats(lambda: aggregate(weights, v, 7)) == held


def test_compiled_sum_is_that_of_windows():
    weights, values = random(2, 3, 25, 7, 6), random(2, 12, 7, 6)
    assert_same_with_gradients(
        torch.compile(lambda *x: aggregate(*x, 5), backend='eager', fullgraph=True),
        lambda *x: aggregate_reference(*x, 5),
        (weights, values),
    )
