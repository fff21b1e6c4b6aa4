# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The Triton kernels, run by Triton's interpreter where there is no GPU."""

import pytest
import torch

from mmdmformer.ops import dwconv_backend, multi_dilated_dwconv

pytest.importorskip('triton')
from mmdmformer.ops import triton_dwconv  # noqa: E402

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
CASES = [((3, 5, 7), (1, 2, 3)), ((7,), (3,)), ((3, 1), (4, 5))]


def make_inputs(kernel_sizes, shape, dtype):
    generator = torch.Generator().manual_seed(0)

    def randn(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(DEVICE, dtype)

    channels = shape[1]
    weights = [randn(channels, 1, k, k) for k in kernel_sizes]
    return randn(*shape), weights, [randn(channels) for _ in kernel_sizes]


def run(path, inputs, dilations, grad):
    """Output and all gradients."""
    tensors = [t.detach().clone().requires_grad_() for t in (inputs[0], *inputs[1], *inputs[2])]
    n = len(inputs[1])
    with dwconv_backend(path):
        out = multi_dilated_dwconv(tensors[0], tensors[1 : n + 1], tensors[n + 1 :], dilations)
    return out, *torch.autograd.grad(out, tensors, grad.to(out.dtype))


@pytest.mark.parametrize('shape', [(2, 2, 9, 35), (1, 3, 1, 4)])
@pytest.mark.parametrize(('kernel_sizes', 'dilations'), CASES)
def test_output_and_gradients_equal_the_reference(kernel_sizes, dilations, shape):
    inputs = make_inputs(kernel_sizes, shape, torch.float64)
    grad = torch.randn_like(inputs[0])
    results = [run(path, inputs, dilations, grad) for path in ('triton', 'reference')]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_relu_and_its_gradient():
    x, weights, biases = make_inputs((3, 5), (2, 2, 6, 7), torch.float64)
    grad = torch.randn_like(x)
    results = []
    for path in ('triton', 'reference'):
        tensors = [t.detach().clone().requires_grad_() for t in (x, *weights, *biases)]
        with dwconv_backend(path):
            out = multi_dilated_dwconv(tensors[0], tensors[1:3], tensors[3:], (1, 2), relu=True)
        assert (out == 0).any() and (out > 0).any()
        results.append((out, *torch.autograd.grad(out, tensors, grad)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_any_memory_format():
    x, weights, biases = make_inputs((3, 5), (2, 3, 6, 7), torch.float64)
    strided = x.to(memory_format=torch.channels_last)
    with dwconv_backend('triton'):
        out = multi_dilated_dwconv(strided, weights, biases, (1, 2))
        sliced = multi_dilated_dwconv(x[:, :, ::2, 1:], weights, biases, (1, 2))
    with dwconv_backend('reference'):
        torch.testing.assert_close(out, multi_dilated_dwconv(x, weights, biases, (1, 2)))
        torch.testing.assert_close(
            sliced, multi_dilated_dwconv(x[:, :, ::2, 1:], weights, biases, (1, 2))
        )
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ('dtype', 'roundings'), [(torch.float32, 16), (torch.float16, 1), (torch.bfloat16, 1)]
)
def test_every_precision_accumulates_in_single_precision(dtype, roundings):
    inputs = make_inputs((3, 5), (2, 1, 6, 7), dtype)
    x, weights, biases = inputs
    grad = torch.randn_like(x)
    exact_inputs = (x.double(), [w.double() for w in weights], [b.double() for b in biases])
    exact = run('reference', exact_inputs, (1, 2), grad.double())
    ours = run('triton', inputs, (1, 2), grad)
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == dtype
        # half precision within one rounding of the result, whose taps may cancel
        bound = roundings * torch.finfo(dtype).eps * b.abs().max()
        assert (a.double() - b).abs().max() <= bound


def test_operator_keeps_torch_library_rules():
    x, weights, biases = make_inputs((3, 1), (1, 2, 4, 5), torch.float64)
    offsets = triton_dwconv.tap_offsets(((3, 3), (1, 1)), (1, 1), x.device)
    weight = torch.cat([w.flatten(1) for w in weights], 1)
    args = (x.requires_grad_(), weight.requires_grad_(), sum(biases).requires_grad_(), offsets)
    checks = ('test_schema', 'test_autograd_registration', 'test_faketensor')
    torch.library.opcheck(triton_dwconv.dwconv_taps, args, test_utils=checks)
    torch.library.opcheck(triton_dwconv.dwconv_taps, (*args[:2], None, offsets), test_utils=checks)


def test_gradients_by_finite_differences():
    x, weights, biases = make_inputs((3, 1), (1, 2, 3, 2), torch.float64)
    tensors = [t.requires_grad_() for t in (x, *weights, *biases)]

    def function(x, *parameters):
        return multi_dilated_dwconv(x, parameters[:2], parameters[2:], (2, 1))

    with dwconv_backend('triton'):
        assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
