# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mmengine's training loops, but exact where they go on after an interruption.

What a run does in an iteration depends on the weights, the seed and the iteration's number alone:
the order of the data, their augmentation and what is random in the model. So an interrupted run
gives the weights of one that was not. A run may go on within an epoch, and a validation that was
interrupted is done again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn

from .resumable_data import SeededBatches, seed_step

_SEED = 'data_seed'  # in mmengine's message hub, which checkpoints hold
_DUE = 'unfinished_validation'  # in the work folder: after which iteration a validation is due


class _ResumableLoop:
    """What both loops share."""

    _noted: int | None = -1  # what the work folder says of validation; unknown at first

    def run(self) -> nn.Module:
        """Train, on from the iteration of the checkpoint that was resumed."""
        self._resumed = self._iter > 0
        self._adopt_seed()
        self._prepare_data()
        model = super().run()
        self._note_validation(None)
        return model

    def _adopt_seed(self) -> None:
        """Take the seed of the data from the checkpoint, or leave it there for those to come."""
        batches, hub = self.dataloader.batch_sampler, self.runner.message_hub
        if not isinstance(batches, SeededBatches):
            return
        if _SEED not in hub.runtime_info:
            hub.update_info(_SEED, int(batches.seed))
        batches.seed = hub.get_info(_SEED)
        if hasattr(batches.sampler, 'seed'):
            batches.sampler.seed = batches.seed

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
    """mmengine's loop over epochs, which can go on within one."""

    @property
    def _end(self) -> int:
        return self._max_epochs

    def run_epoch(self) -> None:
        """Train one epoch, or what is left of it."""
        begin = self._epoch * len(self.dataloader)
        self._done = self._iter - begin  # iterations of this epoch
        batches = self.dataloader.batch_sampler
        if isinstance(batches, SeededBatches):
            batches.first, batches.skip = begin, self._done
        due = self._validates_at(self._epoch + 1)
        self._note_validation(begin + len(self.dataloader) if due else None)
        super().run_epoch()

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train on one batch, numbered within its epoch."""
        self.seed_step()
        super().run_iter(idx + self._done, data_batch)


@LOOPS.register_module()
class ResumableIterLoop(_ResumableLoop, IterBasedTrainLoop):
    """mmengine's loop over iterations, which goes on without loading what it trained on before."""

    @property
    def _end(self) -> int:
        return self._max_iters

    def _prepare_data(self) -> None:
        if self._iter > 0 and isinstance(self.dataloader.batch_sampler, SeededBatches):
            self.dataloader_iterator = self._rest()
            self.fast_forward_on_resume = False  # of a fork, which would leave out the skipping

    def _rest(self) -> _Rest:
        """Batches from the present iteration on."""
        batches = self.dataloader.batch_sampler
        passes, batches.skip = (0, self._iter)
        if not batches.infinite:
            passes, batches.skip = divmod(self._iter, len(batches))
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


class UnfinishedValidationHook(Hook):
    """Does a validation again that was interrupted, once every other hook is ready."""

    priority = 'LOWEST'

    def before_train(self, runner) -> None:
        """Validate if one is due."""
        if isinstance(runner.train_loop, _ResumableLoop):
            runner.train_loop.finish_validation()
