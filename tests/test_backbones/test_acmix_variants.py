# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What holds for ACmix in all four networks."""

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import mmdmformer  # noqa: F401
from mmdmformer.mixers import ACmixOperator
from mmdmformer.mixers.acmix import RATES
from mmdmformer.mixers.acmix_convolution import SHIFTS

NETWORKS = ('ResNetACmix', 'SANACmix', 'PVTACmix', 'SwinACmix')

pytestmark = pytest.mark.parametrize('network', NETWORKS)


def build(network, **kwargs):
    return MODELS.build(dict(type=network, arch='nano', **kwargs))


def shifts(model):
    return [m.convolution.shift for m in model.modules() if isinstance(m, ACmixOperator)]


def test_shift_kernels_survive_initialization(network):
    model = nn.ModuleList([build(network)])
    model[0].init_weights()
    kernels = torch.eye(9).view(9, 3, 3)
    assert shifts(model)
    for shift in shifts(model):
        assert all(kernel.equal(kernels) for kernel in shift.weight)
    # An initializer of a whole model, as classifiers' configs have, does not touch them either.
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    assert all(kernel.equal(kernels) for shift in shifts(model) for kernel in shift.weight)


def test_random_kernels_are_random(network):
    model = build(network, shift='random')
    model.init_weights()
    assert all(shift.weight.std() > 0 and shift.weight.min() < 0 for shift in shifts(model))


@pytest.mark.parametrize(
    'kwargs',
    [
        *(dict(rates=rates) for rates in RATES),
        *(dict(shift=shift) for shift in SHIFTS),
        dict(align_heads=True),
        dict(conv_kernel=5),
    ],
    ids=lambda kwargs: '-'.join(map(str, kwargs.values())),
)
def test_every_variant_learns_with_all_its_parameters(network, kwargs):
    model = build(network, out_indices=(0, 1, 2, 3), **kwargs).double().train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    outs = model(torch.rand(2, 3, 32, 64).double())
    sum((out * torch.rand_like(out)).sum() for out in outs).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    same = [name for name, p in model.named_parameters() if p.equal(before[name])]
    assert not same


def test_both_rates_get_gradients_that_agree_with_differences(network):
    torch.manual_seed(0)
    model = build(network).double().eval()
    model.init_weights()
    rates = [m.rates for m in model.modules() if isinstance(m, ACmixOperator)][-1]
    x = torch.rand(1, 3, 64, 64).double()
    weights = torch.rand_like(model(x)[-1])

    def loss():
        return (model(x)[-1] * weights).sum()

    grads = torch.autograd.grad(loss(), (rates.alpha, rates.beta))
    for rate, grad in zip((rates.alpha, rates.beta), grads, strict=True):
        with torch.no_grad():
            rate += 1e-6
            above = loss()
            rate -= 2e-6
            below = loss()
            rate += 1e-6
        assert grad.item() == pytest.approx(((above - below) / 2e-6).item(), rel=1e-4)
