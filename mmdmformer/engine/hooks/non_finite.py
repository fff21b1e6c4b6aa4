# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Detection of losses, gradients and weights that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from torch import Tensor, nn

from ..errors import UsageError
from ..runner_parts import bare_model, optim_wrappers

ACTIONS = ('stop', 'skip')


class NonFiniteError(Exception):
    """Training diverged; the message says in one sentence where."""


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Skips every step whose gradients are not finite, and reports what was wrong.

    The weights never take such a step. What happens next is chosen: the run stops, or goes on with
    the next batch, buffers such as those of batch norm being as before. In mixed precision a
    finite loss whose gradients overflow is no divergence, as long as the loss scale that mmengine
    then halves is at least 1. A checkpoint with weights that are not finite is never written.

    Args:
        action (str): ``'stop'`` or ``'skip'``. Defaults to ``'stop'``.
        find_layer (bool): Run a bad batch forward again to name the first layer whose output is not
            finite. Defaults to False.
        limit (int): So many bad batches in a row stop the run all the same. Defaults to 10.

    Raises:
        UsageError: If there is no such action.

    Examples:
        >>> default_hooks = dict(non_finite=dict(type='NonFiniteHook', action='stop'))
    """

    priority = 'VERY_HIGH'  # buffers are restored before other hooks see them

    def __init__(self, action: str = 'stop', find_layer: bool = False, limit: int = 10) -> None:
        if action not in ACTIONS:
            raise UsageError(f"action of NonFiniteHook must be 'stop' or 'skip', not {action!r}.")
        self.action = action
        self.find_layer = find_layer
        self.limit = limit
        self._in_a_row = 0
        self._bad_gradients: list[int] = []  # of the present step: ids of the parameters
        self._scale = math.inf

    def before_train(self, runner) -> None:
        """Watch the optimizer."""
        self._scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        if self._scaler is not None:
            self._scale = self._scaler.get_scale()
        for each in optim_wrappers(runner):
            each.optimizer.register_step_pre_hook(self._leave_out_bad_step)

    def _leave_out_bad_step(self, optimizer: torch.optim.Optimizer, *_) -> None:
        learned = [p for g in optimizer.param_groups for p in g['params'] if p.grad is not None]
        # All processes see the same gradients, and so decide the same.
        gradients = [p.grad for p in learned]
        if torch.nn.utils.get_total_norm(gradients, math.inf).isfinite():
            return
        self._bad_gradients = [id(p) for p in learned if not p.grad.isfinite().all()]
        for p in learned:
            p.grad = None  # an optimizer passes over what has no gradient

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Remember the buffers."""
        self._bad_gradients = []
        if self.action == 'skip':
            self._buffers = [(b, b.clone()) for b in bare_model(runner.model).buffers()]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Report what was not finite, and stop if that is chosen."""
        bad_losses = {k: v for k, v in (outputs or {}).items() if not _is_finite(v)}
        overflow = self._overflowed()
        if not (bad_losses or self._bad_gradients or overflow):
            self._in_a_row = 0
            return
        anywhere = bool(bad_losses)
        if self._bad_gradients or overflow:  # what all processes know
            flag = torch.tensor(int(anywhere))
            all_reduce(flag, 'max')
            anywhere = bool(flag)
        if overflow and not anywhere and self._scale >= 1:
            runner.logger.info(
                f'Iteration {runner.iter + 1}: gradients overflowed in mixed precision, while the '
                f'loss is finite. The step was left out and the loss scale is now {self._scale:g}.'
            )
            return
        self._in_a_row += 1
        self._report(runner, data_batch, bad_losses, anywhere)
        if self.action == 'skip':
            for buffer, before in self._buffers:
                buffer.copy_(before)

    def _overflowed(self) -> bool:
        if self._scaler is None:
            return False
        before, self._scale = self._scale, self._scaler.get_scale()
        return self._scale < before

    def _report(self, runner, batch: Any, losses: Mapping[str, Any], anywhere: bool) -> None:
        iteration = runner.iter + 1
        if losses:
            values = ', '.join(f'{k} = {torch.as_tensor(v).item():g}' for k, v in losses.items())
            what = f'the loss of iteration {iteration} is not finite ({values})'
        elif anywhere:
            what = f'the loss of iteration {iteration} is not finite in another process'
        elif self._bad_gradients:
            what = f'the gradients of iteration {iteration} are not finite, though the loss is'
        else:
            what = f'gradients overflow in mixed precision even at the loss scale {self._scale:g}'
        if losses or not anywhere:
            what += f'; its images are {", ".join(_image_paths(batch)) or "unnamed"}'
        if self.find_layer:
            what += f'; {self._first_layer(runner, batch)}'
        if self.action == 'stop':
            raise NonFiniteError(
                f'{what}: lower the learning rate, look at the images, or train past such batches '
                "with action='skip' of NonFiniteHook. Weights and checkpoints are unharmed."
            )
        runner.logger.error(f'Left out a step: {what}.')
        if self._in_a_row == self.limit:
            raise NonFiniteError(
                f'{what}, and neither were the {self.limit - 1} before: training has diverged, so '
                'go on from an earlier checkpoint with a lower learning rate.'
            )

    def _first_layer(self, runner, batch: Any) -> str:
        model = bare_model(runner.model)
        if hasattr(runner.train_loop, 'seed_step'):
            runner.train_loop.seed_step()
        with runner.optim_wrapper.optim_context(runner.model):
            layer = first_non_finite_layer(model, batch)
        if layer is not None:
            return layer
        names = [n for n, p in model.named_parameters() if id(p) in set(self._bad_gradients)]
        # The last layer's gradient is computed first.
        first = f', the first of them {names[-1]}' if names else ''
        return f'every output is finite, but {len(names)} gradients are not{first}'

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Refuse weights that are not finite.

        Raises:
            NonFiniteError: If there are any, the averages of batch norm and EMA included.
        """
        for part in ('state_dict', 'ema_state_dict'):
            bad = [k for k, v in checkpoint.get(part, {}).items() if not _is_finite(v)]
            if bad:
                raise NonFiniteError(
                    f'{len(bad)} tensors of the model are not finite after iteration '
                    f'{checkpoint["meta"]["iter"]}, {bad[0]} the first of them: no checkpoint was '
                    'written, and those before it are kept; go on from one of them with a lower '
                    'learning rate.'
                )


def first_non_finite_layer(model: BaseModel, batch: Any) -> str | None:
    """Run a model of mmengine forward, and tell where values cease to be finite.

    Args:
        model (BaseModel): The model, without wrappers; it is as before in the end.
        batch (Any): A batch of its data loader.

    Returns:
        str | None: In words; None if every parameter and every layer's output is finite.
    """
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter):
            return f'the parameter {name} is not finite'
    found: list[str] = []

    def watch(name: str) -> Callable:
        def check(module: nn.Module, inputs: tuple, output: Any) -> None:
            if not found and not _is_finite(output):
                cause = 'from a finite input' if _is_finite(inputs) else 'whose input is not either'
                found.append(
                    f'the first output that is not finite is that of {name or "the model"} '
                    f'({type(module).__name__}), {cause}'
                )

        return check

    buffers = [(b, b.clone()) for b in model.buffers()]
    with torch.no_grad():
        data = model.data_preprocessor(batch, True)
        handles = [m.register_forward_hook(watch(n)) for n, m in model.named_modules()]
        try:
            model(**data, mode='loss') if isinstance(data, dict) else model(*data, mode='loss')
        finally:
            for handle in handles:
                handle.remove()
            for buffer, before in buffers:
                buffer.copy_(before)
    return found[0] if found else None


def _is_finite(value: Any) -> bool:
    """Whether no tensor or number in it is infinite or NaN.

    Examples:
        >>> _is_finite({'loss': [1.0, torch.zeros(2)]}), _is_finite((float('nan'),))
        (True, False)
    """
    if isinstance(value, Tensor):
        return bool(value.isfinite().all())
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return True
    return all(map(_is_finite, value))


def _image_paths(batch: Any) -> list[str]:
    samples = batch.get('data_samples') if isinstance(batch, Mapping) else None
    paths = [getattr(sample, 'img_path', None) for sample in samples or ()]
    return [path for path in paths if path is not None]
