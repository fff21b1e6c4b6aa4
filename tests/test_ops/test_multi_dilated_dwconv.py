# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import os
import re
import subprocess
import sys

import pytest
import torch

from mmdmformer.ops import backend, cpu_dwconv, dwconv_backend, multi_dilated_dwconv

module = sys.modules[multi_dilated_dwconv.__module__]

CASES = [((3, 5, 7), (1, 2, 3)), ((7,), (3,)), ((3, 5, 7), (1, 1, 1)), ((1, 3), (5, 4))]
SIZES = [(5, 6), (2, 9), (1, 1)]  # in the last two, some taps see nothing but padding


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


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(('kernel_sizes', 'dilations'), CASES)
def test_equals_the_definition(kernel_sizes, dilations, size):
    inputs = make_inputs(kernel_sizes, size=size)
    torch.testing.assert_close(
        multi_dilated_dwconv(*inputs, dilations), definition(*inputs, dilations)
    )


@pytest.mark.parametrize('size', [(4, 3), (2, 7), (1, 1)])
@pytest.mark.parametrize(('kernel_sizes', 'dilations'), CASES)
def test_gradients(kernel_sizes, dilations, size):
    x, weights, biases = make_inputs(kernel_sizes, channels=1, size=size)
    tensors = [t.requires_grad_() for t in (x, *weights, *biases)]
    n = len(weights)

    def function(x, *parameters):
        return multi_dilated_dwconv(x, parameters[:n], parameters[n:], dilations)

    assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('size', [(20, 31), (7, 7), (40, 3)])
def test_gradients_equal_those_of_plain_convolutions(size, memory_format):
    x, weights, biases = make_inputs((3, 5, 7), channels=6, size=size)
    x = x.to(memory_format=memory_format)
    tensors = [t.requires_grad_() for t in (x, *weights, *biases)]
    out = multi_dilated_dwconv(x, weights, biases, (1, 2, 3))
    plain = sum(
        torch.nn.functional.conv2d(x, w, b, padding=d * (w.shape[-1] // 2), dilation=d, groups=6)
        for w, b, d in zip(weights, biases, (1, 2, 3), strict=True)
    )
    torch.testing.assert_close(out, plain)
    grad = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad(out, tensors, grad),
        torch.autograd.grad(plain, tensors, grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('relu', [False, True])
@pytest.mark.parametrize('size', [(20, 31), *SIZES])
@pytest.mark.parametrize(('kernel_sizes', 'dilations'), CASES)
def test_inference_in_single_precision(kernel_sizes, dilations, size, relu, memory_format):
    x, weights, biases = make_inputs(kernel_sizes, channels=4, size=size)
    expected = multi_dilated_dwconv(x, weights, biases, dilations, relu)
    single = [t.float() for t in (x, *weights, *biases)]
    image, n = single[0].contiguous(memory_format=memory_format), len(weights)
    before = image.clone()
    out = multi_dilated_dwconv(image, single[1 : n + 1], single[n + 1 :], dilations, relu)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert image.equal(before)


def test_relu_and_its_gradient():
    x, weights, biases = make_inputs((3, 5))
    tensors = [t.requires_grad_() for t in (x, *weights, *biases)]
    fused = multi_dilated_dwconv(x, weights, biases, (1, 2), relu=True)
    apart = multi_dilated_dwconv(x, weights, biases, (1, 2)).relu()
    assert (fused == 0).any() and fused.equal(apart)
    grad = torch.randn_like(x)
    for a, b in zip(*(torch.autograd.grad(y, tensors, grad) for y in (fused, apart)), strict=True):
        torch.testing.assert_close(a, b)


def test_branches_of_different_number_are_refused():
    x, weights, biases = make_inputs((3, 5))
    with pytest.raises(ValueError, match='shorter'):
        multi_dilated_dwconv(x, weights, biases, (1,))


def test_autocast_gives_half_precision():
    x, weights, biases = make_inputs((3, 5), dtype=torch.float32)
    expected = multi_dilated_dwconv(x, weights, biases, (1, 2))
    with torch.autocast('cpu', torch.bfloat16):
        out = multi_dilated_dwconv(x, weights, biases, (1, 2))
    assert out.dtype == torch.bfloat16
    assert (out - expected).norm() < 0.02 * expected.norm()


# The choice


WAYS = {'reference': 'dwconv_reference', 'cpu': 'sum_dwconvs'}


@pytest.mark.parametrize('name', WAYS)
def test_every_forced_backend_gives_the_same_and_is_left_again(name, monkeypatch):
    inputs = make_inputs((3, 5, 7), channels=4, size=(9, 11))
    expected = definition(*inputs, (1, 2, 3))
    taken = []
    for way, function in [(way, getattr(module, way)) for way in WAYS.values()]:
        monkeypatch.setattr(module, way, lambda *a, n=way, f=function: taken.append(n) or f(*a))
    with dwconv_backend(name):
        torch.testing.assert_close(multi_dilated_dwconv(*inputs, (1, 2, 3)), expected)
        with dwconv_backend('auto'):
            multi_dilated_dwconv(*inputs, (1, 2, 3))
    assert taken == [WAYS[name]] * (1 if name == 'cpu' else 3) + ['sum_dwconvs']


def test_one_can_ask_why_and_each_choice_is_logged_once(caplog):
    x, weights, biases = make_inputs((3, 5), dtype=torch.float32)
    weights[0].requires_grad_()
    assert backend.why_not('fused', x, *weights) == 'gradients are wanted'
    assert backend.why_not('cpu', x, *weights) is None
    backend._log_once.cache_clear()
    with caplog.at_level('INFO', 'mmdmformer'):
        for _ in range(2):
            multi_dilated_dwconv(x, weights, biases, (1, 2))
    assert [record.getMessage() for record in caplog.records] == [
        "multi_dilated_dwconv: torch.float32 on cpu takes the backend 'cpu'"
    ]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('grad', [False, True])
def test_convolutions_are_fused_in_single_precision_only(dtype, grad, monkeypatch):
    inputs = make_inputs((3, 5, 7), channels=4, size=(9, 11), dtype=dtype)
    inputs[1][1].requires_grad_()
    calls = []
    convolve = cpu_dwconv.convolve
    monkeypatch.setattr(cpu_dwconv, 'convolve', lambda *args: calls.append(1) or convolve(*args))
    with torch.set_grad_enabled(grad):
        out = multi_dilated_dwconv(*inputs, (1, 2, 3))
    assert len(calls) == (3 if dtype == torch.float32 else 0)
    assert out.requires_grad == grad


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('bias', [True, False])
def test_operator_keeps_the_rules_of_torch(bias, dtype):
    """Schema, shapes and strides without data, autograd, dynamic shapes."""
    x, weights, biases = make_inputs((3, 5, 7), channels=4, size=(9, 11), dtype=dtype)
    tensors = [t.requires_grad_() for t in (x, *weights, *biases)]
    args = (x, weights, tensors[-1] if bias else None, [1, 2, 3], True)
    torch.library.opcheck(cpu_dwconv.sum_dwconvs, args)
    torch.library.opcheck(cpu_dwconv.dwconv_weight_gradient, (x.detach(), x.detach(), [7, 7], 3))


def test_compiled_graph_has_one_operator_and_the_same_gradients():
    x, weights, biases = make_inputs((3, 5, 7), channels=4, size=(9, 11))
    tensors = [t.requires_grad_() for t in (x, *weights, *biases)]
    graphs = []

    def backend(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    def function(*tensors):
        return multi_dilated_dwconv(tensors[0], tensors[1:4], tensors[4:], (1, 2, 3))

    out, expected = (
        torch.compile(function, fullgraph=True, backend=backend)(*tensors),
        function(*tensors),
    )
    assert sum('sum_dwconvs' in target for target in graphs[0]) == 1
    grad = torch.randn_like(x)
    torch.testing.assert_close(
        torch.autograd.grad(out, tensors, grad), torch.autograd.grad(expected, tensors, grad)
    )


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ('AVX2', 'AVX512'),
    reason='another processor has other kernels',
)
def test_each_branch_takes_a_fast_kernel():
    """At the four stages of 224 pixels and of 64, forward and backward to the input."""
    program = """
import torch
from mmdmformer.ops import multi_dilated_dwconv

for channels, side in ((64, 56), (128, 28), (320, 14), (512, 7), (64, 16), (128, 8), (320, 4)):
    x = torch.rand(1, channels, side, side, requires_grad=True)
    weights = [torch.rand(channels, 1, size, size) for size in (3, 5, 7)]
    multi_dilated_dwconv(x, weights, [None] * 3, (1, 2, 3)).sum().backward()
    with torch.no_grad():
        multi_dilated_dwconv(x, weights, [None] * 3, (1, 2, 3))
"""
    env = {**os.environ, 'ONEDNN_VERBOSE': '1'}
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, env=env, check=True
    )
    lines = [line.split(',') for line in done.stdout.splitlines() if ',exec,cpu,' in line]
    kernels = [line[line.index('convolution') + 1] for line in lines if 'convolution' in line]
    assert len(kernels) >= 7 * 3 * 3 - 6  # on 4 x 4 pixels, one tap of 49 is a 1x1 convolution
    # such as x64:gemm:jit or ref:any; brgemm's are fast
    assert not [kernel for kernel in kernels if re.search(r'\b(gemm|ref)\b', kernel)]


def test_exported_graph_holds_operators_of_torch_alone():
    class Module(torch.nn.Module):
        def forward(self, x, weights, biases):
            return multi_dilated_dwconv(x, weights, biases, (1, 2))

    inputs = make_inputs((3, 5), dtype=torch.float32)
    program = torch.export.export(Module(), inputs)
    assert 'mmdmformer' not in str(program.graph)
    torch.testing.assert_close(program.module()(*inputs), multi_dilated_dwconv(*inputs, (1, 2)))


def test_fused_backend_is_refused_where_gradients_would_be_lost():
    inputs = make_inputs((3, 5), dtype=torch.float32)
    inputs[1][0].requires_grad_()
    with (
        dwconv_backend('fused'),
        pytest.raises(ValueError, match=r"'fused' \(MMDMFORMER_DWCONV\) .* gradients are"),
    ):
        multi_dilated_dwconv(*inputs, (1, 2))


def test_an_empty_batch():
    x, weights, biases = make_inputs((3, 5), dtype=torch.float32)
    assert multi_dilated_dwconv(x[:0], weights, biases, (1, 2)).shape == (0, *x.shape[1:])


def test_unknown_backend_is_named(monkeypatch):
    with pytest.raises(ValueError, match="'fast' is no backend .* choose one of auto, reference"):
        dwconv_backend('fast').__enter__()
    monkeypatch.setattr(backend, '_forced', 'slow')  # as from the environment variable
    with pytest.raises(ValueError, match=r"'slow' is no backend .*\(MMDMFORMER_DWCONV\)"):
        multi_dilated_dwconv(*make_inputs((3,)), (1,))
