# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The folded form gives what the plain one gives, for every variant, and loads back."""

import pytest
import torch
from torch import nn

from mmdmformer import DMFormer
from mmdmformer.layers.folding import as_affine, compose, fold_after, fold_before

VARIANTS = {
    'plain': {},
    'no expansion': dict(mixer=dict(expand_ratio=1)),
    'single branch': dict(mixer=dict(kernel_sizes=(7,), dilations=(3,))),
    'no dilation': dict(mixer=dict(dilations=(1, 1, 1))),
    'no residual': dict(mixer=dict(residual=False)),
    'no gate': dict(mixer=dict(gate=False)),
    'no gate, residual or last norm': dict(
        mixer=dict(gate=False, residual=False, out_norm_act=False)
    ),
    'no last norm and activation': dict(mixer=dict(out_norm_act=False)),
    'GELU': dict(act_cfg=dict(type='GELU')),
    'SyncBN': dict(norm_cfg=dict(type='SyncBN')),
    'large scales': dict(layer_scale_init_value=-1.5),
}


def randomize(model):
    """Give every norm statistics and an affine map of its own, as training does."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, -0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.eval()


def build(**kwargs):
    torch.manual_seed(0)
    model = DMFormer('nano', out_indices=(0, 1, 2, 3), **kwargs)
    model.init_weights()
    return randomize(model)


@pytest.mark.parametrize('kwargs', VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_folded_form_equals_the_plain_one(kwargs):
    model, x = build(**kwargs), torch.rand(2, 3, 65, 96)
    expected = model(x)
    exact = [y.float() for y in model.double()(x.double())]
    model.float().switch_to_deploy()
    for folded, plain, reference in zip(model(x), expected, exact, strict=True):
        torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(folded, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kwargs', VARIANTS.values(), ids=VARIANTS)
@torch.no_grad()
def test_state_dict_loads_into_a_deploy_model(kwargs):
    model, x = build(**kwargs), torch.rand(1, 3, 64, 64)
    model.switch_to_deploy()
    loaded = DMFormer('nano', out_indices=(0, 1, 2, 3), deploy=True, **kwargs).eval()
    loaded.load_state_dict(model.state_dict())
    for a, b in zip(loaded(x), model(x), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_folding_in_double_precision_is_exact():
    model, x = build().double(), torch.rand(1, 3, 64, 64).double()
    expected = model(x)
    model.switch_to_deploy()
    for folded, plain in zip(model(x), expected, strict=True):
        torch.testing.assert_close(folded, plain, rtol=1e-12, atol=1e-12)


def test_no_batch_norm_and_no_layer_scale_is_left():
    model = build()
    model.switch_to_deploy()
    kept = [type(m).__name__ for m in model.modules() if 'Norm' in type(m).__name__]
    assert kept == ['LayerNorm2d'] * 4
    assert not [name for name, _ in model.named_parameters() if 'layer_scale' in name]
    assert not list(model.buffers())


def test_folding_twice_changes_nothing():
    model = build()
    model.switch_to_deploy()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.switch_to_deploy()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_training_mode_is_refused():
    model = DMFormer('nano')
    with pytest.raises(RuntimeError, match=r'training mode .* call the model\'s eval\(\) first'):
        model.switch_to_deploy()
    assert not model.deploy


def test_other_norms_are_refused_and_nothing_is_changed():
    model = DMFormer('nano', norm_cfg=dict(type='GN', num_groups=4)).eval()
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=r'GroupNorm\(4, 16.* cannot be folded'):
        model.switch_to_deploy()
    assert not model.deploy and list(model.state_dict()) == names


def test_layer_depths_hold_in_the_folded_form():
    model = DMFormer('nano', deploy=True)
    depths = {model.get_layer_depth(name)[0] for name, _ in model.named_parameters()}
    assert depths == set(range(6))


# The algebra


def test_norms_fold_into_their_neighbors():
    torch.manual_seed(0)
    norm = randomize(nn.BatchNorm2d(6)).double()
    before, after = nn.Conv2d(4, 6, 3, bias=False).double(), nn.Conv2d(6, 3, 1).double()
    x = torch.rand(2, 4, 5, 5).double()
    expected = after(norm(before(x)))
    affine = as_affine(norm)
    torch.testing.assert_close(after(fold_after(before, *affine)(x)), expected)
    torch.testing.assert_close(fold_before(*affine, after)(before(x)), expected)


def test_linear_layers_take_a_norm_in():
    torch.manual_seed(0)
    norm, fc = randomize(nn.BatchNorm1d(6)).double(), nn.Linear(6, 3).double()
    x = torch.rand(4, 6).double()
    torch.testing.assert_close(fold_before(*as_affine(norm), fc)(x), fc(norm(x)))


@pytest.mark.parametrize('bias', [False, True])
def test_two_pointwise_convolutions_become_one(bias):
    torch.manual_seed(0)
    first, second = (nn.Conv2d(4, 6, 1, bias=bias).double(), nn.Conv2d(6, 3, 1, bias=bias).double())
    x = torch.rand(2, 4, 5, 5).double()
    composed = compose(first, second)
    assert composed.weight.shape == (3, 4, 1, 1)
    torch.testing.assert_close(composed(x), second(first(x)))
