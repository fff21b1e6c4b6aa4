# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mmengine's training loops, but with an exact resume after an interruption.

What a run does in an iteration depends on the weights, the seed and the iteration's number alone:
the order of the data, their augmentation and what is random in the model. So an interrupted run
gives the weights of one that was not. A run may go on within an epoch, and a validation that was
interrupted is done again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn

from .batch_size import count_accumulation
from .errors import UsageError
from .sampling import make_resumable, require_same_length, seed_step, seeded_batches

_SEED = 'data_seed'  # in mmengine's message hub, which checkpoints hold
_LAYOUT = 'data_layout'  # in the message hub as well: of the iterations that were counted
_DUE = 'unfinished_validation'  # in the work directory: after which iteration a validation is due


class _ResumableLoop(BaseLoop):
    """Common part of both loops."""

    _epoch: int
    _iter: int
    _noted: int | None = -1  # what the work directory says of validation; unknown at first

    def __init__(self, runner, dataloader: Any, *args, **kwargs) -> None:
        if isinstance(dataloader, dict):
            differ = runner._randomness_cfg.get('diff_rank_seed', False)
            dataloader = runner.build_dataloader(dataloader, runner.seed, differ)
        require_same_length(dataloader)
        make_resumable(dataloader)
        # Hooks of ours that have to do with data; mmengine's loop over iterations starts workers.
        runner.call_hook('prepare_dataloader', dataloader=dataloader, training=True)
        super().__init__(runner, dataloader, *args, **kwargs)
        runner.register_hook(_UnfinishedValidationHook())
        count_accumulation(runner)

    def run(self) -> nn.Module:
        """Train, on from the iteration of the checkpoint that was resumed."""
        self._resumed = self._iter > 0
        self._adopt_seed()
        self._skip_samples: int | None = None
        if self._resumed:
            self._find_position()
            self._check_sampler()
        self.runner.message_hub.update_info(_LAYOUT, self._layout())
        self._prepare_data()
        model = super().run()
        self._note_validation(None)
        return model

    def _adopt_seed(self) -> None:
        """Take the seed of the data from the checkpoint, or leave it there for those to come."""
        batches, hub = seeded_batches(self.dataloader), self.runner.message_hub
        if batches is None:
            return
        if _SEED not in hub.runtime_info:
            hub.update_info(_SEED, int(batches.seed))
        batches.seed = hub.get_info(_SEED)
        if hasattr(batches.sampler, 'seed'):
            batches.sampler.seed = batches.seed

    def _layout(self) -> dict[str, int]:
        """What the number of an iteration means."""
        size = getattr(self.dataloader, 'batch_size', None) or 1
        return dict(
            batch=size * get_world_size(),
            images=len(self.dataloader.dataset),
            length=len(self.dataloader),
        )

    def _find_position(self) -> None:
        """Say where to go on if batches are others than before."""
        before, now = self.runner.message_hub.runtime_info.get(_LAYOUT), self._layout()
        if before is None:
            before = dict(now, length=self._guess_length(now['length']))
        if {**before, **self._origin(before)} == {**now, **self._origin(now)}:
            return
        where = self._convert(before, now)
        # mmengine has counted already, for the accumulation of gradients.
        self.runner.optim_wrapper.initialize_count_status(
            self.runner.model, self.iter, self.max_iters
        )
        self.runner.logger.warning(
            f'The run had {before["images"]} images in batches of {before["batch"]}, and has '
            f'{now["images"]} in batches of {now["batch"]}: it goes on {where}.'
        )

    def _check_sampler(self) -> None:
        """Say it if the data do not go on where the run stopped."""
        batches = seeded_batches(self.dataloader)
        if batches is not None and not batches.goes_on:
            self.runner.logger.warning(
                f'{type(batches.sampler).__name__} cannot go on in the middle: the run goes on '
                f'after iteration {self._iter} with other data than without the interruption, some '
                'of which it has seen before. Where that matters, let train_dataloader.sampler be '
                'a DefaultSampler or an InfiniteSampler.'
            )

    def _samples_of_process(self, samples: int, before: dict, now: dict) -> int | None:
        """How many of the next samples of this process are done; None if that is undefined."""
        batches, processes = seeded_batches(self.dataloader), get_world_size()
        plain = batches is not None and batches.plain
        if not plain or before['images'] != now['images'] or samples % processes:
            return None
        return samples // processes

    def _prepare_data(self) -> None:
        """Bring the data to the present iteration, if the loop does not by itself."""

    def seed_step(self) -> None:
        """Let the random numbers that follow depend on the seed and the iteration alone."""
        seed_step(self.runner.message_hub.runtime_info.get(_SEED, 0), self._iter)

    def _validates_at(self, count: int) -> bool:
        """Whether a validation follows after so many epochs, or iterations."""
        return (
            self.runner.val_loop is not None
            and count >= self.val_begin
            and (count % self.val_interval == 0 or count == self._end)
        )

    def _note_validation(self, iteration: int | None) -> None:
        """Write down, before the checkpoint is saved, that a validation is due; or that none is."""
        if iteration == self._noted or not is_main_process():
            return
        self._noted = iteration
        note = Path(self.runner.work_dir, _DUE)
        if iteration is None:
            note.unlink(missing_ok=True)
        else:
            note.write_text(str(iteration))

    def finish_validation(self) -> None:
        """Validate if the run was interrupted before its validation ended."""
        note = Path(self.runner.work_dir, _DUE)
        due = [self._resumed and note.is_file() and note.read_text() == str(self._iter)]
        broadcast_object_list(due)
        if due[0] and self.runner.val_loop is not None:
            self.runner.logger.warning(
                f'The validation after iteration {self._iter} was interrupted: doing it again.'
            )
            self.runner.val_loop.run()


@LOOPS.register_module()
class ResumableEpochLoop(_ResumableLoop, EpochBasedTrainLoop):
    """mmengine's loop over epochs, which can go on within one.

    Arguments are those of mmengine's ``EpochBasedTrainLoop``. With another batch size or number of
    processes than before, it goes on at the sample where the run stopped if batches take images in
    order, and else, or with other images, at the beginning of the next epoch.

    Examples:
        >>> train_cfg = dict(type='ResumableEpochLoop', max_epochs=12, val_interval=1)
    """

    @property
    def _end(self) -> int:
        return self._max_epochs

    @staticmethod
    def _origin(_: dict) -> dict:
        return {}

    def _guess_length(self, length: int) -> int:
        """How long epochs were, for plain mmengine, which saves at their ends and does not say."""
        if self._epoch > 0 and self._iter % self._epoch == 0:
            return self._iter // self._epoch
        return max(length, self._iter) if self._epoch == 0 else length

    def _convert(self, before: dict, now: dict) -> str:
        """Number iterations as they are counted now; where that is, in words."""
        done = self._iter - self._epoch * before['length']  # of this epoch
        if done >= before['length']:
            self._epoch, done = self._epoch + 1, 0
        samples = self._samples_of_process(done * before['batch'], before, now) if done else 0
        left = 0
        if samples:
            size = self.dataloader.batch_size
            rest = len(self.dataloader.batch_sampler.sampler) - samples
            left = rest // size if self.dataloader.drop_last else math.ceil(rest / size)
        if left > 0:
            self._skip_samples = samples
            self._iter = (self._epoch + 1) * now['length'] - left
            return f'at the sample where it stopped in epoch {self._epoch + 1}'
        if done and self._epoch + 1 < self._max_epochs:
            self._epoch += 1
        self._iter = self._epoch * now['length']
        return f'at the beginning of epoch {self._epoch + 1}'

    def run_epoch(self) -> None:
        """Train one epoch, or what is left of it."""
        begin = self._epoch * len(self.dataloader)
        self._done = self._iter - begin  # iterations of this epoch
        batches = seeded_batches(self.dataloader)
        if batches is not None:
            batches.first, batches.skip = begin, self._done
            batches.skip_samples, self._skip_samples = self._skip_samples, None
        due = self._validates_at(self._epoch + 1)
        self._note_validation(begin + len(self.dataloader) if due else None)
        super().run_epoch()

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train on one batch, numbered within its epoch."""
        self.seed_step()
        super().run_iter(idx + self._done, data_batch)


@LOOPS.register_module()
class ResumableIterLoop(_ResumableLoop, IterBasedTrainLoop):
    """mmengine's loop over iterations, which goes on without loading what it trained on before.

    Arguments are those of mmengine's ``IterBasedTrainLoop``.

    Examples:
        >>> train_cfg = dict(type='ResumableIterLoop', max_iters=40000, val_interval=4000)
    """

    @property
    def _end(self) -> int:
        return self._max_iters

    def run(self) -> nn.Module:
        """Train, on from the iteration of the checkpoint that was resumed.

        Raises:
            UsageError: If a schedule counts epochs, of which mmengine ends none before the last
                iteration.
        """
        self._check_schedule()
        return super().run()

    def _guess_length(self, length: int) -> int:
        return length

    def _check_schedule(self) -> None:
        schedulers = self.runner.param_schedulers or []
        groups = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
        names = [type(each).__name__ for group in groups for each in group if each.by_epoch]
        if names:
            raise UsageError(
                f'{", ".join(names)} of param_scheduler would change nothing: it counts epochs, '
                'and this run iterations; set by_epoch=False, and begin and end in iterations.'
            )

    def _layout(self) -> dict[str, int]:
        hub = self.runner.message_hub.runtime_info
        return super()._layout() | self._origin(hub.get(_LAYOUT, {}))

    def _origin(self, layout: dict) -> dict:
        """At which iteration batches became those of now, and how many samples were done."""
        return {key: layout.get(key, 0) for key in ('since', 'samples')}

    def _convert(self, before: dict, now: dict) -> str:
        """Remember how many samples are done; where that is, in words."""
        since = self._origin(before)
        done = since['samples'] + (self._iter - since['since']) * before['batch']
        if self._samples_of_process(done, before, now) is None:
            return 'with what follows as many batches of the present ones'
        self.runner.message_hub.update_info(_LAYOUT, dict(since=self._iter, samples=done))
        return 'at the sample where it stopped'

    def _prepare_data(self) -> None:
        if self._iter > 0 and seeded_batches(self.dataloader) is not None:
            self.dataloader_iterator: Any = self._rest()
            self.fast_forward_on_resume = False  # of a fork, which would leave out the skipping

    def _rest(self) -> _Rest:
        """Batches from the present iteration on."""
        batches = self.dataloader.batch_sampler
        passes, batches.skip = (0, self._iter)
        if not batches.infinite:
            passes, batches.skip = divmod(self._iter, len(batches))
        layout = self._layout()
        if batches.infinite and layout['since']:
            done = layout['samples'] + (self._iter - layout['since']) * layout['batch']
            batches.skip_samples = done // get_world_size()
        batches.first = passes * len(batches)
        if hasattr(batches.sampler, 'set_epoch'):
            batches.sampler.set_epoch(passes)
        rest = type(self.dataloader_iterator)(self.dataloader)
        rest._epoch = passes
        return _Rest(self._iter, rest)

    def run_iter(self, data_batch: Sequence[dict]) -> None:
        """Train on one batch."""
        self.seed_step()
        due = self._validates_at(self._iter + 1)
        self._note_validation(self._iter + 1 if due else None)
        super().run_iter(data_batch)


class _Rest:
    """Batches before which mmengine skips others, without loading those.

    Args:
        skipped (int): How many mmengine skips: it takes them one by one, a fork all at once.
        batches (Iterator): Those after them.
    """

    def __init__(self, skipped: int, batches: Iterator[Sequence[dict]]) -> None:
        self.skipped, self.batches = skipped, batches

    def __iter__(self) -> _Rest:
        return self

    def __next__(self) -> Sequence[dict] | None:
        if self.skipped > 0:
            self.skipped -= 1
            return None
        return next(self.batches)

    def skip_iter(self, count: int) -> None:
        self.skipped -= count


class _UnfinishedValidationHook(Hook):
    """Does a validation again that was interrupted, once every other hook is ready."""

    priority = 'LOWEST'

    def before_train(self, runner) -> None:
        """Validate if one is due."""
        runner.train_loop.finish_validation()
