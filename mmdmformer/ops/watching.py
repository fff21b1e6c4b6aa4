# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Whether a layer is watched, so that it must be called instead of only using its weights.

A fast backend takes the weights out of layers instead of calling them. Hooks, wrappers, counters,
pruning tools and the transforms of torch.func see called layers only, so that such a backend steps
back wherever one of them is at work. Much of that is told by private names of torch alone; where
one of them is missing, everything counts as watched.
"""

import torch
import torch.nn.modules.module as module_state
from torch import nn
from torch.autograd import forward_ad

_PLAIN = {nn.Conv2d, nn.ReLU, nn.GELU}


def may_bypass(*layers: nn.Module) -> bool:
    """Tell whether layers may be computed from their weights, without being called.

    Args:
        *layers (nn.Module): Convolutions and activations.

    Returns:
        bool: Whether all are torch's own ``nn.Conv2d``, ``nn.ReLU`` or ``nn.GELU`` with plain
        parameters, and nobody watches them.

    Examples:
        >>> conv = nn.Conv2d(4, 4, 3, groups=4)
        >>> may_bypass(conv)
        True
        >>> handle = conv.register_forward_hook(lambda *args: None)
        >>> may_bypass(conv)
        False
    """
    return all(map(_is_plain, layers)) and not is_watched(*layers)


def is_watched(*modules: nn.Module) -> bool:
    """Tell whether somebody sees it, or wants to see it, when modules are called.

    Args:
        *modules (nn.Module): The modules.

    Returns:
        bool: Whether one of them has a hook or a ``forward`` of its own, or a global hook, a
        dispatch or function mode, a function transform or forward-mode differentiation is active.
    """
    if any(map(_is_replaced_or_hooked, modules)):
        return True
    return not torch.compiler.is_compiling() and (is_transforming() or _is_everything_watched())


def is_transforming() -> bool:
    """Tell whether torch.func or forward-mode differentiation needs operators of torch's own."""
    if torch.compiler.is_compiling():  # which follows them in the graph that it captures
        return False
    try:
        return (
            torch._C._functorch.peek_interpreter_stack() is not None
            or forward_ad._current_level >= 0
        )
    except AttributeError:
        return True


def _is_everything_watched() -> bool:
    try:
        return bool(
            torch._C._len_torch_dispatch_stack()
            or torch._C._len_torch_function_stack()
            or module_state._has_any_global_hook()
        )
    except AttributeError:
        return True


# These two are asked of every layer in every forward pass.
def _is_replaced_or_hooked(module: nn.Module) -> bool:
    state = module.__dict__
    try:
        return bool(
            'forward' in state
            or state['_forward_pre_hooks']
            or state['_forward_hooks']
            or state['_backward_pre_hooks']
            or state['_backward_hooks']
            or module._compiled_call_impl is not None
        )
    except (AttributeError, KeyError):
        return True


def _is_plain(layer: nn.Module) -> bool:
    if type(layer) not in _PLAIN:
        return False
    for parameter in layer._parameters.values():  # noqa: SIM110, all() costs twice as much
        if parameter is not None and type(parameter) is not nn.Parameter:
            return False
    return True
