# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The one contract that every token mixer meets; the registry says which there are."""

import copy
import inspect
import io
import warnings

import pytest
import torch
from mixer_cases import build, maps, randomize_statistics
from mmcv.cnn import is_norm
from torch import nn

from mmdmformer import TOKEN_MIXERS
from mmdmformer.deploy.onnx_export import OPSET

TOKEN_MIXERS.import_from_location()
WINDOWED = dict(type='DynamicAttention', window=3)
# Forms that differ in how they compute, beside the default of each mixer.
FORMS = {
    'DepthwiseConv, dilated': dict(type='DepthwiseConv', kernel_size=5, dilation=2),
    'DepthwiseConv, one kernel': dict(type='DepthwiseConv', small_kernel=None),
    'LocalAttention, shifted': dict(type='LocalAttention', window=4, shift=1),
    'DynamicAttention, scaling': dict(type='DynamicAttention', activation='scaling'),
    'DynamicAttention, ln': dict(type='DynamicAttention', activation='ln', position='none'),
    'DynamicAttention, depthwise': dict(
        type='DynamicAttention', activation='none', kernel='depthwise'
    ),
    'DynamicAttention, windows': dict(**WINDOWED),
    'DynamicAttention, ReLU in windows': dict(**WINDOWED, activation='scaling_relu'),
    'DynamicAttention, depthwise in windows': dict(
        **WINDOWED, activation='none', kernel='depthwise'
    ),
    'DynamicDepthwiseConv, homogeneous': dict(type='DynamicDepthwiseConv', homogeneous=True),
    'DynamicDepthwiseConv, in groups': dict(type='DynamicDepthwiseConv', group_channels=4),
    'DMA, bare': dict(type='DMA', gate=False, residual=False, out_norm_act=False),
    'ACmix, tensor shift': dict(type='ACmix', shift='tensor', rates='complementary'),
}
CASES = {**{name: dict(type=name) for name in sorted(TOKEN_MIXERS.module_dict)}, **FORMS}

pytestmark = pytest.mark.parametrize('cfg', CASES.values(), ids=CASES)


def some_loss(y):
    return (y * maps(*y.shape[2:], channels=y.shape[1], batch=len(y), dtype=y.dtype).flip(0)).sum()


@pytest.mark.parametrize('size', [(1, 1), (7, 7), (13, 9), (5, 21)], ids=lambda s: f'{s[0]}x{s[1]}')
def test_any_size(cfg, size):
    y = build(cfg).eval()(maps(*size))
    assert y.shape == (2, 16, *size)
    assert y.isfinite().all()


def test_empty_batch(cfg):
    x = maps(6, 5, batch=0).requires_grad_()
    y = build(cfg).eval()(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
def test_gradient(cfg, training):
    mixer = build(cfg, channels=4).double().train(training)
    parameters = dict(mixer.named_parameters())

    def function(x, *values):
        values = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(mixer, values, (x,))

    x = maps(4, 5, channels=4, dtype=torch.double).requires_grad_()
    # Numerically, the statistics of batch norms must not count; in training they do not.
    assert torch.autograd.gradcheck(function, (x, *parameters.values()), fast_mode=True, atol=1e-4)


def test_frozen_weights_pass_the_gradient_on(cfg):
    mixer = build(cfg).double().train()
    x = maps(8, 6, dtype=torch.double).requires_grad_()
    (expected,) = torch.autograd.grad(some_loss(mixer(x)), x)
    mixer.requires_grad_(False)
    (gradient,) = torch.autograd.grad(some_loss(mixer(x)), x)
    torch.testing.assert_close(gradient, expected)


def test_every_parameter_is_used(cfg):
    mixer = build(cfg).train()
    some_loss(mixer(maps(8, 6).requires_grad_())).backward()
    assert [name for name, p in mixer.named_parameters() if p.grad is None] == []


def test_images_of_a_batch_do_not_mix(cfg):
    mixer = build(cfg).double().eval()
    x = maps(8, 6, dtype=torch.double)
    torch.testing.assert_close(mixer(x)[1:], mixer(x[1:]))


@pytest.mark.parametrize('channels_last', [False, True], ids=['contiguous', 'channels_last'])
def test_memory_format_stays(cfg, channels_last):
    mixer = build(cfg).double().eval()
    x = maps(8, 6, dtype=torch.double)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    y = mixer(x.contiguous(memory_format=memory_format))
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y, mixer(x))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_half_precision(cfg, dtype):
    mixer = build(cfg).eval()
    x = maps(8, 6).to(dtype)
    expected = mixer(x.float())
    with torch.autocast('cpu', dtype):
        mixed = mixer(x.float())
    pure = mixer.to(dtype)(x)
    assert pure.dtype == dtype
    for y in (mixed, pure):
        assert (y.float() - expected).norm() / expected.norm() < 0.04


def test_compile(cfg):
    # No code is generated, so that no C compiler is needed: the capture is what can break.
    torch.compiler.reset()
    mixer = build(cfg).double().train()
    twin, x = copy.deepcopy(mixer), maps(8, 6, dtype=torch.double)
    compiled = torch.compile(twin, backend='aot_eager', fullgraph=True)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    some_loss(compiled(theirs)).backward()
    some_loss(mixer(ours)).backward()
    torch.testing.assert_close(theirs.grad, ours.grad)
    for (name, a), b in zip(mixer.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_tracing(cfg):
    mixer = build(cfg).double().eval()
    traced = torch.jit.trace(mixer, maps(8, 6, dtype=torch.double))
    for size in ((8, 6), (9, 7), (12, 4)):
        x = maps(*size, batch=3, dtype=torch.double)
        torch.testing.assert_close(traced(x), mixer(x))


def test_onnx(cfg):
    """Two in a row: the first could fix the sides for what follows."""
    onnxruntime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    mixers, buffer = nn.Sequential(build(cfg), nn.ReLU(), build(cfg)).eval(), io.BytesIO()
    axes = {0: 'batch', 2: 'height', 3: 'width'}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            mixers,
            (maps(8, 6),),
            buffer,
            dynamo=False,
            input_names=['x'],
            output_names=['y'],
            dynamic_axes=dict(x=axes, y=axes),
            opset_version=OPSET,
        )
    session = onnxruntime.InferenceSession(buffer.getvalue())
    for size in ((8, 6), (9, 7), (12, 4)):
        x = maps(*size, batch=3)
        (y,) = session.run(None, dict(x=x.numpy()))
        expected = mixers(x)
        assert (torch.from_numpy(y) - expected).norm() / expected.norm() < 1e-5


def test_modules_are_called_once(cfg):
    """What hooks, wrappers, pruning tools and counters of operations rely on."""
    mixer = build(cfg).eval()
    leaves = [name for name, m in mixer.named_modules() if name and not list(m.children())]
    calls = []
    for name in leaves:
        mixer.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
    mixer(maps(8, 6))
    assert sorted(calls) == sorted(leaves)


def test_folding(cfg):
    mixer = build(cfg).double().eval()
    if not hasattr(mixer, 'fold'):
        pytest.skip('the block keeps norm and layer scale')
    norm, scale = nn.BatchNorm2d(16).double().eval(), torch.rand(16).double()
    randomize_statistics(norm)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, -1, 1)
    before = copy.deepcopy([mixer.state_dict(), norm.state_dict()])
    folded = mixer.fold(norm, scale)
    assert not any(map(is_norm, folded.modules()))
    for size in ((7, 9), (1, 1)):
        x = maps(*size, dtype=torch.double)
        expected = x + scale[:, None, None] * mixer(norm(x))
        torch.testing.assert_close(folded(x), expected)
    for old, module in zip(before, (mixer, norm), strict=True):
        for name, value in module.state_dict().items():
            assert value.equal(old[name]), name


def test_heads_must_divide_the_channels(cfg):
    if 'head_dim' not in inspect.signature(TOKEN_MIXERS.get(cfg['type'])).parameters:
        pytest.skip('no heads')
    sentence = 'head_dim=32 does not divide 80 channels: choose one of 1, 2, 4, 5, 8, 10, 16, 20,'
    with pytest.raises(ValueError, match=sentence):
        TOKEN_MIXERS.build(dict(cfg), channels=80)
