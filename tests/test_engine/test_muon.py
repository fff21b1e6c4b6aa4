# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Muon for matrices and dense convolutions, AdamW for the rest, as torch computes each."""

import copy

import pytest
import torch
from mmengine.optim import CosineAnnealingLR, build_optim_wrapper
from torch import nn

from mmdmformer import DMFormer
from mmdmformer.engine import MuonWithAdamW

SETTINGS = dict(lr=0.01, weight_decay=0.1)


def network(memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 4, 1, bias=False),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    return layers.to(memory_format=memory_format)


def gradients(model, step):
    images = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
    model.zero_grad()
    model(images).square().sum().backward()


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_each_weight_goes_as_torch_steps_it(memory_format):
    model = network(memory_format)
    optimizer = MuonWithAdamW(model.parameters(), **SETTINGS)
    twin = network(memory_format)
    dense = [twin[0].weight, twin[3].weight, twin[5].weight]
    rest = [p for p in twin.parameters() if all(p is not d for d in dense)]
    matrices = [nn.Parameter(p.detach().flatten(1).clone()) for p in dense]
    muon = torch.optim.Muon(matrices, adjust_lr_fn='match_rms_adamw', **SETTINGS)
    adamw = torch.optim.AdamW(rest, **SETTINGS)
    for step in range(3):
        gradients(model, step)
        optimizer.step()
        gradients(twin, step)
        for matrix, weight in zip(matrices, dense, strict=True):
            matrix.grad = weight.grad.flatten(1)
        muon.step(), adamw.step()
        for matrix, weight in zip(matrices, dense, strict=True):
            weight.data.copy_(matrix.data.view_as(weight))
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)  # Muon computes in bfloat16
            assert a.grad.shape == a.shape


def test_a_resumed_run_is_the_same():
    model = network()
    optimizer = MuonWithAdamW(model.parameters(), **SETTINGS)
    gradients(model, 0)
    optimizer.step()
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    other = network()
    resumed = MuonWithAdamW(other.parameters(), **SETTINGS)
    other.load_state_dict(state[0])
    resumed.load_state_dict(state[1])
    for step in (1, 2):
        for each, steps in ((model, optimizer), (other, resumed)):
            gradients(each, step)
            steps.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_mmengine_builds_it_with_settings_for_single_parameters():
    model = nn.ModuleDict(dict(backbone=DMFormer('nano')))
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='MuonWithAdamW', **SETTINGS),
            paramwise_cfg=dict(layer_decay_rate=0.5, norm_decay_mult=0.0),
        ),
    )
    optimizer, backbone = wrapper.optimizer, model['backbone']
    group = {id(p): g for g in optimizer.param_groups for p in g['params']}
    assert group.keys() == {id(p) for p in backbone.parameters()}
    stem = group[id(backbone.stem[0].weight)]
    assert stem['lr'] == 0.01 * 0.5**6 and any(g is stem for g in optimizer.muon.param_groups)
    norm = group[id(backbone.stages[3].norm.weight)]
    assert norm['weight_decay'] == 0 and any(g is norm for g in optimizer.adamw.param_groups)
    scheduler = CosineAnnealingLR(wrapper, T_max=2)
    optimizer.step()
    scheduler.step()
    assert stem['lr'] == pytest.approx(0.005 * 0.5**6)
