# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from mmdmformer.compat import has_fused_convolutions
from mmdmformer.ops import conv2d, fused_conv, fuses, map_slices

CONVS = {
    'pointwise': nn.Conv2d(6, 8, 1),
    'pointwise without bias': nn.Conv2d(6, 8, 1, bias=False),
    'strided': nn.Conv2d(6, 8, 3, stride=2, padding=1),
    'depthwise': nn.Conv2d(6, 6, (3, 5), padding=(2, 4), dilation=2, groups=6),
}
ACTS = [None, nn.ReLU(inplace=True), nn.GELU(), nn.GELU(approximate='tanh'), nn.Sigmoid()]


def test_this_torch_has_them():
    assert has_fused_convolutions()


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('add', [False, True])
@pytest.mark.parametrize('act', ACTS, ids=str)
@pytest.mark.parametrize('conv', CONVS.values(), ids=CONVS)
def test_equals_the_three_steps(conv, act, add, memory_format):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 9, 8, generator=generator).contiguous(memory_format=memory_format)
    with torch.no_grad():
        expected = conv(x).clone()
        summand = torch.randn(expected.shape, generator=generator) if add else None
        if add:
            summand = summand.contiguous(memory_format=memory_format)
            expected = expected + summand
        expected = expected if act is None else act(expected)
        assert fuses(x, conv.weight)
        torch.testing.assert_close(conv2d(x, conv, act, summand), expected)


@pytest.mark.parametrize('trained', ['weight', 'bias', 'input', 'summand'])
def test_gradients_flow_where_they_are_wanted(trained):
    conv = nn.Conv2d(6, 8, 1).requires_grad_(False)
    x, summand = torch.randn(1, 6, 4, 4), torch.ones(1, 8, 4, 4)
    wanted = dict(conv.named_parameters(), input=x, summand=summand)[trained].requires_grad_()
    out = conv2d(x, conv, nn.GELU(), summand)
    expected = nn.functional.gelu(conv(x) + summand)
    torch.testing.assert_close(
        *(torch.autograd.grad(y.square().sum(), wanted)[0] for y in (out, expected))
    )


def test_autocast_and_tracing_see_plain_layers():
    # so do counters of multiply-adds, and exporters
    conv, x = nn.Conv2d(6, 8, 1).requires_grad_(False), torch.randn(1, 6, 4, 4)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert conv2d(x, conv).dtype == torch.bfloat16
    with torch.no_grad():
        traced = torch.jit.trace(lambda x: conv2d(x, conv, nn.ReLU()), x)
    assert 'mkldnn' not in str(traced.graph) and 'aten::relu' in str(traced.graph)


def test_slices_are_as_large_as_the_cache_allows():
    sizes = []

    def double(x):
        sizes.append(len(x))
        return 2 * x

    x = torch.randn(5, 3, 2, 4).contiguous(memory_format=torch.channels_last)
    out = map_slices(double, x, bytes_per_image=fused_conv._SLICE_BYTES // 2)
    assert sizes == [2, 2, 1]
    assert out.equal(2 * x) and out.is_contiguous(memory_format=torch.channels_last)
    whole = map_slices(lambda x: x, x, bytes_per_image=fused_conv._SLICE_BYTES // 5)
    assert whole is x  # a single slice is not copied
    map_slices(double, x, bytes_per_image=2 * fused_conv._SLICE_BYTES)
    assert sizes[3:] == [1] * 5
