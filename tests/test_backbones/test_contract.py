# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The one contract that every backbone here meets."""

import copy
import importlib

import pytest
import torch
from mmengine.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from mmdmformer import DMFormer

DEPTHWISE = dict(activation='none', kernel='depthwise', position='relative')
BACKBONES = {
    'DMFormer': dict(type='DMFormer', arch='nano'),
    'MetaFormer': dict(type='MetaFormer', arch=DMFormer.arch_zoo['nano'], mixer=dict(type='DMA')),
    'DynamicViT': dict(type='DynamicViT', arch='nano', out_type='pyramid', **DEPTHWISE),
    'DynamicSwin': dict(type='DynamicSwin', arch='nano', pad_small_map=True, **DEPTHWISE),
    'BottleneckResNet': dict(type='BottleneckResNet', arch='nano'),
    'ResNetACmix': dict(type='ResNetACmix', arch='nano'),
    'SAN': dict(type='SAN', arch='nano'),
    'SANACmix': dict(type='SANACmix', arch='nano'),
    'PVTACmix': dict(type='PVTACmix', arch='nano'),
    'SwinACmix': dict(type='SwinACmix', arch='nano'),
    'ConvSwin': dict(type='ConvSwin', arch='nano'),
}

pytestmark = pytest.mark.parametrize('cfg', BACKBONES.values(), ids=BACKBONES)


def build(cfg, **kwargs):
    torch.manual_seed(0)
    model = MODELS.build({**cfg, **kwargs})
    model.init_weights()
    return model


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def some_loss(outs):
    """A loss without symmetry: the norm at the end makes sums and squares constant."""
    generator = torch.Generator().manual_seed(2)
    return sum((out * torch.rand(out.shape, generator=generator)).sum() for out in outs)


def batch_norms(module):
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


@pytest.mark.parametrize(
    'size', [(32, 32), (33, 33), (47, 70), (64, 32), (95, 127)], ids=lambda s: f'{s[0]}x{s[1]}'
)
def test_any_image_size(cfg, size):
    model = build(cfg, out_indices=(0, 1, 2, 3)).eval()
    outs = model(torch.rand(1, 3, *size))
    assert len(outs) == 4
    for i, (out, channels) in enumerate(zip(outs, model.out_channels, strict=True)):
        assert out.shape[1] == channels
        for side, out_side in zip(size, out.shape[2:], strict=True):
            assert out_side in (side // 2 ** (i + 2), -(-side // 2 ** (i + 2)))
        assert out.isfinite().all()


@pytest.mark.parametrize('in_channels', [1, 5])
def test_any_number_of_input_channels(cfg, in_channels):
    model = build(cfg, in_channels=in_channels).eval()
    assert model(torch.rand(1, in_channels, 32, 32))[0].shape == (1, model.out_channels[0], 1, 1)


@pytest.mark.parametrize('out_indices', [3, -1, (0,), (1, 2), (0, 1, 2, 3), (-2, -1)])
def test_outputs_and_no_unused_parameter(cfg, out_indices, image):
    everything = build(cfg, out_indices=(0, 1, 2, 3)).eval()
    model = build(cfg, out_indices=out_indices).eval()
    given = [out_indices] if isinstance(out_indices, int) else out_indices
    outs = model(image)
    expected = everything(image)
    assert [tuple(o.shape) for o in outs] == [tuple(expected[i].shape) for i in given]
    for out, i in zip(outs, given, strict=True):
        torch.testing.assert_close(out, expected[i])
    some_loss(outs).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 3])
def test_frozen_stages(cfg, frozen_stages, image):
    model = build(cfg, frozen_stages=frozen_stages, out_indices=(0, 1, 2, 3)).double().train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    some_loss(model(image.double())).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    frozen = model._parts()[: frozen_stages + 1]
    frozen_ids = {id(t) for part in frozen for t in [*part.parameters(), *part.buffers()]}
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    assert {n for n, t in tensors.items() if id(t) not in frozen_ids} == changed


def test_norm_eval(cfg, image):
    model = build(cfg, norm_eval=True).train()
    if not batch_norms(model):
        pytest.skip('no batch norm')
    assert not any(m.training for m in batch_norms(model))
    before = [m.running_mean.clone() for m in batch_norms(model)]
    model(image)
    assert all(a.equal(m.running_mean) for a, m in zip(before, batch_norms(model), strict=True))
    assert model.training


def test_checkpointing_changes_nothing_but_memory(cfg, image):
    plain, checkpointed = (
        build(cfg, with_cp=with_cp, drop_path_rate=0.5).double().train()
        for with_cp in (False, True)
    )
    for model in (plain, checkpointed):
        torch.manual_seed(3)
        some_loss(model(image.double())).backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_checkpointing_keeps_fewer_activations(cfg, image):
    def saved_bytes(with_cp):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel() * t.element_size()) or t, lambda t: t
        ):
            build(cfg, with_cp=with_cp).train()(image)
        return sum(sizes)

    assert saved_bytes(True) < 0.5 * saved_bytes(False)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_outputs_are_contiguous_in_the_format_of_the_images(cfg, memory_format, image):
    model = build(cfg, out_indices=(0, 1, 2, 3)).eval()
    for out in model(image.contiguous(memory_format=memory_format)):
        assert out.is_contiguous(memory_format=memory_format)


def test_channels_last(cfg, image):
    model = build(cfg).double().eval()
    expected = model(image.double())[-1]
    model = model.to(memory_format=torch.channels_last)
    out = model(image.double().to(memory_format=torch.channels_last))[-1]
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=['bf16', 'fp16'])
def test_autocast(cfg, dtype, image):
    # Batch norms over these small maps would magnify the rounding, their averages do not.
    model = build(cfg, out_indices=(0, 3)).eval()
    expected = model(image)
    with torch.autocast('cpu', dtype):
        outs = model(image)
        trained = model.train()(image)
    for out, exact in zip(outs, expected, strict=True):
        assert (out.float() - exact).norm() / exact.norm() < 0.05
    (some_loss([out.float() for out in trained]) / 1000).backward()  # as a gradient scaler would
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.slow
@pytest.mark.parametrize('with_cp', [False, pytest.param(True, marks=pytest.mark.long)])
def test_compile(cfg, with_cp, image):
    # No code is generated, so that no C compiler is needed: the capture is what can break.
    model = build(cfg, with_cp=with_cp, out_indices=(0, 3)).double().train()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend='aot_eager', fullgraph=True)
    some_loss(compiled(image.double())).backward()
    some_loss(model(image.double())).backward()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        torch.testing.assert_close(a, b[1], msg=name)


def test_tracing(cfg, image):
    model = build(cfg, out_indices=(0, 3)).double().eval()
    traced = torch.jit.trace(model, image.double())
    other = torch.rand(1, 3, 96, 64).double()
    for out, expected in zip(traced(other), model(other), strict=True):
        torch.testing.assert_close(out, expected)


def test_images_of_a_batch_do_not_mix(cfg, image):
    model = build(cfg).double().eval()
    torch.testing.assert_close(model(image.double())[-1][:1], model(image[:1].double())[-1])


def test_empty_batch(cfg, image):
    """A detector's teacher may find nothing in a batch."""
    model = build(cfg, out_indices=(0, 1, 2, 3))
    empty = model(image[:0])
    assert [out.shape[1:] for out in empty] == [out.shape[1:] for out in model(image)]
    assert {len(out) for out in empty} == {0}
    some_loss(empty).backward()
    assert all(p.grad.eq(0).all() for p in model.parameters() if p.grad is not None)


def test_layer_depth(cfg):
    model = build(cfg)
    depths = [
        model.get_layer_depth(f'backbone.{n}', 'backbone.') for n, _ in model.named_parameters()
    ]
    num_layers = depths[0][1]
    # Named parameters come in order of execution, so the depth must never fall.
    ids = [depth for depth, _ in depths]
    assert ids == sorted(ids)
    assert set(ids) == set(range(num_layers - 1))
    assert {n for _, n in depths} == {num_layers}
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (num_layers - 1, num_layers)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\) is out of range: choose .* 0 to 3'),
        (dict(out_indices=()), r'out_indices=\(\) is out of range'),
        (dict(out_indices=(2, 1)), r'out_indices=\(2, 1\) must rise'),
        (dict(out_indices='0,3'), "out_indices='0,3' must be an integer or a list .* 0 to 3, or"),
        (dict(out_indices=None), 'out_indices=None must be an integer or a list of integers'),
        (dict(out_indices=(0, 1.0)), r'out_indices=\(0, 1.0\) must be an integer or a list'),
        (dict(out_indices=True), 'out_indices=True must be an integer or a list of integers'),
        (dict(frozen_stages=5), 'frozen_stages=5 is out of range: .* at most 4'),
    ],
)
def test_wrong_arguments(cfg, kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(cfg, **kwargs)


def test_too_small_an_image(cfg):
    with pytest.raises(ValueError, match='31x64 pixels is too small: .* at least 32'):
        build(cfg)(torch.rand(1, 3, 31, 64))


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg'])
@pytest.mark.parametrize('prefix', ['', 'mmdmformer.'])
def test_found_from_every_toolbox(cfg, scope, prefix):
    registry = importlib.import_module(f'{scope}.registry').MODELS
    model = registry.build({**cfg, 'type': prefix + cfg['type']})
    assert type(model) is MODELS.get(cfg['type'])
