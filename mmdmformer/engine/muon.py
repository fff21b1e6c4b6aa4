# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""torch's Muon for networks whose parameters are not only matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer


@OPTIMIZERS.register_module()
class MuonWithAdamW(Optimizer):
    """Muon for matrices, AdamW for all other parameters.

    Muon takes the weights of linear layers and of dense convolutions, each kernel as a row of a
    matrix; norms, biases, depthwise convolutions and tables go to AdamW. Muon's steps are scaled
    to AdamW's, so that one learning rate and one weight decay serve both. torch's own ``Muon``
    (2.9 to 2.15) refuses whatever is no matrix.

    Args:
        params (Iterable): Parameters, or groups of them with settings of their own, as any
            constructor of mmengine makes them.
        lr (float): Learning rate. Defaults to 1e-3.
        weight_decay (float): Weight decay. Defaults to 0.05.
        momentum (float): Of Muon. Defaults to 0.95.
        betas (tuple[float, float]): Of AdamW. Defaults to (0.9, 0.999).

    Raises:
        ImportError: If torch has no Muon.

    Examples:
        >>> optim_wrapper = dict(optimizer=dict(type='MuonWithAdamW', lr=1e-3, weight_decay=0.05))
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        if not hasattr(torch.optim, 'Muon'):
            raise ImportError(f'torch {torch.__version__} has no Muon: install 2.9 or later.')
        groups = list(params)
        if not isinstance(groups[0], dict):
            groups = [dict(params=groups)]
        split: dict[bool, list[dict]] = {True: [], False: []}
        for group in groups:
            members = group['params']
            for member in [members] if isinstance(members, Tensor) else members:
                split[_is_matrix(member)].append({**group, 'params': [member]})
        # torch refuses an optimizer of nothing.
        placeholder = [nn.Parameter(torch.zeros(1, 1), requires_grad=False)]
        settings: dict[str, Any] = dict(lr=lr, weight_decay=weight_decay)
        with _as_matrices(group['params'][0] for group in split[True]):
            self.muon = torch.optim.Muon(
                split[True] or placeholder,
                momentum=momentum,
                adjust_lr_fn='match_rms_adamw',
                **settings,
            )
        self.adamw = AdamW(split[False] or placeholder, betas=betas, **settings)
        super().__init__([*self.muon.param_groups, *self.adamw.param_groups], settings)
        self._share()

    def _share(self) -> None:
        """Let both work on the groups and the state that schedulers and checkpoints know."""
        for optimizer, momentum in ((self.muon, True), (self.adamw, False)):
            optimizer.param_groups = [g for g in self.param_groups if ('momentum' in g) is momentum]
            optimizer.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step.

        Args:
            closure (Callable, optional): Computes the loss and the gradients. Defaults to None.

        Returns:
            Tensor: The loss of ``closure``.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with _as_matrices(p for group in self.muon.param_groups for p in group['params']):
            self.muon.step()
        self.adamw.step()
        return loss


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim == 2 or (parameter.ndim == 4 and parameter.shape[1] > 1)


@contextmanager
def _as_matrices(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let the kernels of convolutions be matrices, which share their memory."""
    kept = [(p, p.data, p.grad) for p in parameters if p.ndim == 4]
    for parameter, data, grad in kept:
        parameter.grad = None
        parameter.data = _matrix(data, data)
        parameter.grad = None if grad is None else _matrix(grad, data)
    try:
        yield
    finally:
        for parameter, data, grad in kept:
            parameter.grad = None
            parameter.data = data
            parameter.grad = grad


def _matrix(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor (O, I, H, W) as (O, I H W), or in the order of channels-last memory."""
    return (tensor if like.is_contiguous() else tensor.permute(0, 2, 3, 1)).flatten(1)
