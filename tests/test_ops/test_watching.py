# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The branches are called as soon as somebody watches them, and only then."""

import itertools
from contextlib import ExitStack

import pytest
import torch
import torch.nn.modules.module as module_state
from torch import nn
from torch.autograd import forward_ad
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mmdmformer.ops import conv2d, may_bypass, multi_dilated_dwconv, sum_branches

KERNELS, DILATIONS = (3, 5, 7), (1, 2, 3)


def make_branches(channels=3, kernels=KERNELS, dilations=DILATIONS, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.ModuleList(
        nn.Conv2d(channels, channels, k, padding=d * (k // 2), dilation=d, groups=channels)
        for k, d in zip(kernels, dilations, strict=True)
    ).to(dtype)


def plain(x, branches):
    return sum(
        nn.functional.conv2d(x, b.weight, b.bias, 1, b.padding, b.dilation, b.groups)
        for b in branches
    )


class Passing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class PassingFunctions(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Subclass(nn.Conv2d):
    pass


def hook(stack, branch):
    stack.callback(branch.register_forward_hook(lambda *args: None).remove)


def pre_hook(stack, branch):
    stack.callback(branch.register_forward_pre_hook(lambda *args: None).remove)


def backward_hook(stack, branch):
    stack.callback(branch.register_full_backward_hook(lambda *args: None).remove)


def global_hook(stack, branch):
    stack.callback(register_module_forward_hook(lambda *args: None).remove)


def own_forward(stack, branch):
    branch.forward = lambda x: nn.Conv2d.forward(branch, x)


def parametrized(stack, branch):
    parametrize.register_parametrization(branch, 'weight', Doubled())


def pruned(stack, branch):
    prune.l1_unstructured(branch, 'weight', amount=0.5)


def subclassed(stack, branch):
    branch.__class__ = Subclass


def dispatch_mode(stack, branch):
    stack.enter_context(Passing())


def function_mode(stack, branch):
    stack.enter_context(PassingFunctions())


def other_padding(stack, branch):
    branch.padding_mode = 'circular'
    branch._reversed_padding_repeated_twice = [p for p in branch.padding for _ in range(2)]


WATCHERS = [
    hook, pre_hook, backward_hook, global_hook, own_forward, parametrized, pruned, subclassed,
    dispatch_mode, function_mode, other_padding,
]  # fmt: skip


@pytest.mark.parametrize('watch', WATCHERS)
def test_branches_are_called_where_somebody_watches(watch, monkeypatch):
    branches, x = make_branches(), torch.rand(2, 3, 8, 9).double()
    called = []
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, 'forward', lambda m, x: called.append(m) or forward(m, x))
    assert sum_branches(x, branches).shape == x.shape and not called
    with ExitStack() as stack:
        watch(stack, branches[1])
        out = sum_branches(x, branches)
        assert len(called) == 3
        expected = sum(branch(x) for branch in branches)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize(
    ('owner', 'name'),
    [
        (torch._C, '_len_torch_dispatch_stack'),
        (torch._C, '_len_torch_function_stack'),
        (torch._C._functorch, 'peek_interpreter_stack'),
        (forward_ad, '_current_level'),
        (module_state, '_has_any_global_hook'),
        (nn.Module, '_compiled_call_impl'),
    ],
)
def test_a_torch_without_a_private_name_counts_as_watching(owner, name, monkeypatch):
    (branch,) = make_branches(kernels=(3,), dilations=(1,))
    assert may_bypass(branch)
    monkeypatch.delattr(owner, name)
    assert not may_bypass(branch)


def test_a_layer_without_a_list_of_hooks_counts_as_watched():
    (branch,) = make_branches(kernels=(3,), dilations=(1,))
    del branch._backward_pre_hooks
    assert not may_bypass(branch)


def test_hooks_see_what_the_branch_computes():
    branches, x = make_branches(), torch.rand(1, 3, 8, 9).double().requires_grad_()
    seen, gradients = [], []
    branches[2].register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    branches[2].register_full_backward_hook(lambda module, into, out: gradients.append(out[0]))
    out = sum_branches(x, branches)
    out.sum().backward()
    torch.testing.assert_close(seen[0], branches[2](x.detach()))
    assert gradients[0].eq(1).all()


@pytest.mark.filterwarnings('ignore:torch.ao.quantization is deprecated')
def test_observers_of_quantization_see_the_branches():
    quantization = torch.ao.quantization
    model = Sum(make_branches(dtype=torch.float32)).eval()
    model.qconfig = quantization.get_default_qconfig('x86')
    quantization.prepare(model, inplace=True)
    x = torch.rand(1, 3, 8, 9)
    model(x)
    for branch in model.branches:
        observer = branch.activation_post_process
        out = nn.Conv2d.forward(branch, x)
        torch.testing.assert_close((observer.min_val, observer.max_val), (out.min(), out.max()))


def test_a_wrapper_in_place_of_a_branch_is_called():
    class Wrapper(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return 3 * self.layer(x)

    branches, x = make_branches(), torch.rand(1, 3, 8, 9).double()
    expected = branches[0](x) + 3 * branches[1](x) + branches[2](x)
    branches[1] = Wrapper(branches[1])
    torch.testing.assert_close(sum_branches(x, branches), expected)


@pytest.mark.parametrize(
    ('attribute', 'value'), [('stride', (2, 2)), ('padding', (0, 0)), ('dilation', (1, 1))]
)
def test_another_geometry_is_what_is_computed(attribute, value):
    branches, x = make_branches(2, (7,), (3,)), torch.rand(1, 2, 20, 21).double()
    setattr(branches[0], attribute, value)
    torch.testing.assert_close(sum_branches(x, branches), branches[0](x))


def test_activations_are_called_as_well():
    branches, act = make_branches(dtype=torch.float32), nn.ReLU()
    x, seen = torch.randn(1, 3, 8, 9), []
    with torch.no_grad():
        expected = sum_branches(x, branches, act)
        act.register_forward_hook(lambda *args: seen.append(1))
        torch.testing.assert_close(sum_branches(x, branches, act), expected)
        torch.testing.assert_close(
            conv2d(x, branches[0], act), act(plain(x, branches[:1])), rtol=1e-5, atol=1e-6
        )
    assert len(seen) == 3 and not may_bypass(act)


# Gradients, whatever is frozen


@pytest.mark.parametrize(
    ('x', 'weights', 'biases'), list(itertools.product([True, False], repeat=3))
)
def test_every_combination_of_frozen_tensors(x, weights, biases):
    branches = make_branches(1, (3, 5), (1, 2))
    for branch in branches:
        branch.weight.requires_grad_(weights)
        branch.bias.requires_grad_(biases)
    image = torch.rand(1, 1, 4, 5).double().requires_grad_(x)
    tensors = [t for t in (image, *branches.parameters()) if t.requires_grad]
    if not tensors:
        assert not sum_branches(image, branches).requires_grad
        return
    assert torch.autograd.gradcheck(lambda *_: sum_branches(image, branches), tensors)
    ours, theirs = (
        torch.autograd.grad(f(image, branches).square().sum(), tensors)
        for f in (sum_branches, plain)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_one_frozen_branch_among_trained_ones():
    branches, x = make_branches(), torch.rand(1, 3, 8, 9).double()
    branches[1].requires_grad_(False)
    sum_branches(x, branches).square().sum().backward()
    assert branches[1].weight.grad is None
    expected = torch.autograd.grad(plain(x, branches).square().sum(), branches[2].weight)[0]
    torch.testing.assert_close(branches[2].weight.grad, expected)


def test_without_any_bias():
    branches, x = make_branches(), torch.rand(1, 3, 8, 9).double()
    for branch in branches:
        branch.bias = None
    torch.testing.assert_close(sum_branches(x, branches), plain(x, branches))


def test_double_backward():
    branches = make_branches(1, (3, 5), (1, 2))
    tensors = [torch.rand(1, 1, 3, 4).double().requires_grad_(), *branches.parameters()]
    assert torch.autograd.gradgradcheck(lambda x, *_: sum_branches(x, branches), tensors)


def test_forward_mode():
    branches, x = make_branches(), torch.rand(1, 3, 8, 9).double()
    direction = torch.rand_like(x)
    expected = plain(direction, branches) - plain(torch.zeros_like(x), branches)
    with forward_ad.dual_level():
        out = sum_branches(forward_ad.make_dual(x, direction), branches)
        torch.testing.assert_close(forward_ad.unpack_dual(out).tangent, expected)
    _, tangent = torch.func.jvp(lambda x: sum_branches(x, branches), (x,), (direction,))
    torch.testing.assert_close(tangent, expected)


def test_gradients_of_each_image_by_function_transforms():
    branches, x = make_branches(), torch.rand(3, 3, 8, 9).double()
    parameters = dict(branches.named_parameters())

    def loss(parameters, image):
        return torch.func.functional_call(Sum(branches), _prefixed(parameters), image[None]).sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    expected = torch.autograd.grad(plain(x[1:2], branches).sum(), branches[0].weight)[0]
    torch.testing.assert_close(each['0.weight'][1], expected)


class Sum(nn.Module):
    def __init__(self, branches):
        super().__init__()
        self.branches = branches

    def forward(self, x):
        return sum_branches(x, self.branches)


def _prefixed(parameters):
    return {f'branches.{name}': value for name, value in parameters.items()}


# Counters


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_torch_counts_the_operator_forward_and_backward(dtype):
    branches, x = make_branches(dtype=dtype), torch.rand(2, 3, 8, 9, dtype=dtype)
    x.requires_grad_()
    weights, biases = [b.weight for b in branches], [b.bias for b in branches]

    def count(function, backward):
        with FlopCounterMode(display=False) as counter:
            out = function()
            if backward:
                out.sum().backward()
        return counter.get_total_flops()

    def operator():
        return multi_dilated_dwconv(x, weights, biases, DILATIONS)

    by_hand = 2 * x.numel() * (9 + 25 + 49)
    assert count(lambda: sum_branches(x, branches), backward=False) == by_hand
    assert count(operator, backward=False) == by_hand
    # Of plain depthwise convolutions, torch 2.11 counts the weights' gradient C times.
    assert count(operator, backward=True) == 3 * by_hand
