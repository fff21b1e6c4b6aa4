# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mmengine's runner, guarded against what a long run meets."""

from __future__ import annotations

import os

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import RUNNERS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoints import check_intact, find_checkpoint, point_to
from ..datasets.bad_input import BadImages, BadInputError, base_datasets, guard_pipeline
from .checkpoint_hook import SafeCheckpointHook
from .finite import FiniteHook
from .loops import ResumableEpochLoop, ResumableIterLoop, UnfinishedValidationHook
from .resumable_data import make_resumable, protect_workers
from .signals import SignalHook

BAD_IMAGE_LIMIT = 0.001


class _BadImagesHook(Hook):
    """Lets the processes of a run tell each other of unreadable images, now and then."""

    priority = 'VERY_LOW'

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval  # iterations

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self.after_train_epoch(runner)

    def after_train_epoch(self, runner) -> None:
        try:
            for bad in runner.bad_images:
                bad.share()
        finally:
            runner.report_bad_images()


@RUNNERS.register_module()
class GuardedRunner(Runner):
    """mmengine's runner, but for broken files, interruptions and losses that are not finite.

    An unreadable training image is written into the log and replaced by another one, until more
    than the share ``bad_image_limit`` of the config (:data:`BAD_IMAGE_LIMIT` if it has none) is
    unreadable. Any other file that cannot be used, validation and test images included, stops the
    run with its name. Data sets are guarded before workers start, so that all of them share a
    count; the processes of a distributed run exchange theirs every 50 iterations.

    Checkpoints are written by :class:`SafeCheckpointHook`, training goes on where it ended by
    :class:`ResumableEpochLoop` and :class:`ResumableIterLoop`, a scheduler's signals are obeyed by
    :class:`SignalHook`, and ``non_finite`` of the config holds arguments of :class:`FiniteHook`.
    """

    _tolerant = False  # while the data of the training loop are built

    def register_hook(self, hook: Hook | dict, priority: str | int | None = None) -> None:
        """Register a hook, and in place of mmengine's own for checkpoints the safe one."""
        if isinstance(hook, dict) and hook.get('type') in ('CheckpointHook', CheckpointHook):
            hook = {**hook, 'type': SafeCheckpointHook.__name__}
        super().register_hook(hook, priority)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop with data that tolerate some unreadable images."""
        self.bad_images: list[BadImages] = []
        self.signals = SignalHook()
        for hook in (
            _BadImagesHook(),
            FiniteHook(**self.cfg.get('non_finite', {})),
            UnfinishedValidationHook(),
            self.signals,
        ):
            self.register_hook(hook)
        self._tolerant = True
        try:
            return super().build_train_loop(_resumable(loop))
        finally:
            self._tolerant = False

    def build_dataloader(
        self, dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a data loader as mmengine does, and guard its data sets."""
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        _require_same_length(loader)
        protect_workers(loader)
        if self._tolerant:
            make_resumable(loader)
        for dataset in base_datasets(loader.dataset):
            bad = None
            if self._tolerant and not dataset.test_mode:
                bad = BadImages(dataset, self.cfg.get('bad_image_limit', BAD_IMAGE_LIMIT))
                self.bad_images.append(bad)
            guard_pipeline(dataset, bad)
        return loader

    def load_or_resume(self) -> None:
        """Go on from the newest intact checkpoint of the work folder, if that is asked for."""
        if self._resume and self._load_from is None and not self._has_loaded:
            found = [find_checkpoint(self.work_dir) if is_main_process() else None]
            broadcast_object_list(found)
            if found[0] is not None:
                self._load_from = str(found[0])
                if is_main_process():
                    point_to(self.work_dir, found[0])
        super().load_or_resume()

    def load_checkpoint(self, filename: str, *args, **kwargs) -> dict:
        """Load a checkpoint as mmengine does, after a look at its checksums."""
        if os.path.isfile(filename):
            check_intact(filename)
        return super().load_checkpoint(filename, *args, **kwargs)

    def train(self) -> nn.Module:
        """Train, and at the end or at an error report the unreadable images not yet reported."""
        try:
            return super().train()
        finally:
            self.signals.stop_listening()
            self.report_bad_images()

    def report_bad_images(self) -> None:
        """Write the paths of images that were found to be unreadable into the log."""
        for bad in getattr(self, 'bad_images', ()):
            for path in bad.take_unreported():
                self.logger.warning(
                    f'Image {path} cannot be read and was replaced by another one; up to '
                    f'{bad.allowed} of {len(bad.found)} may be (bad_image_limit={bad.limit:g}).'
                )


def _resumable(loop: BaseLoop | dict) -> BaseLoop | dict:
    """The settings of a training loop, for the resumable one in place of mmengine's own."""
    own = {EpochBasedTrainLoop: ResumableEpochLoop, IterBasedTrainLoop: ResumableIterLoop}
    if not isinstance(loop, dict) or ('type' in loop) == ('by_epoch' in loop):
        return loop
    loop = dict(loop)
    name = loop.pop('type', None)
    if name is None:
        name = EpochBasedTrainLoop if loop.pop('by_epoch') else IterBasedTrainLoop
    for theirs, ours in own.items():
        if name in (theirs, theirs.__name__):
            name = ours.__name__
    return dict(loop, type=name)


def _require_same_length(loader: DataLoader) -> None:
    """Processes with different data would wait for each other for ever."""
    lengths = all_gather_object(len(loader.dataset))
    if len(set(lengths)) > 1:
        raise BadInputError(
            f'the processes see data of different lengths ({", ".join(map(str, lengths))} samples, '
            'by rank): bring the same files to every machine.'
        )
