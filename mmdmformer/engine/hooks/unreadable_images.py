# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Handling of unreadable images: replaced in training up to a limit, and reported."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader

from ...datasets.bad_input import BadImages, base_datasets, guard_pipeline
from ..errors import UsageError
from ..runner_parts import built_dataloaders


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """Replaces unreadable training images by others, and reports every unusable file.

    An unreadable training image is written into the log and replaced as mmengine's data sets do
    (``max_refetch``), until there are more than the limit. Any other file that cannot be used,
    validation and test images included, stops the run with its name. Workers share one count, and
    the processes of a distributed run exchange theirs now and then. A pipeline that another hook
    puts in (mmdet's PipelineSwitchHook, mmpretrain's SwitchRecipeHook) is guarded as well.

    mmengine's loop over iterations starts its workers before any hook is called: with workers it
    needs :class:`~mmdmformer.engine.ResumableIterLoop`.

    Args:
        limit (float): The share of the training images that may be unreadable, 0 to 1.
            Defaults to 0.001.
        interval (int): Iterations after which processes exchange their counts. Defaults to 50.

    Examples:
        >>> default_hooks = dict(images=dict(type='UnreadableImagesHook', limit=0.001))
    """

    priority = 'VERY_LOW'  # after hooks that switch pipelines

    def __init__(self, limit: float = 0.001, interval: int = 50) -> None:
        if not (isinstance(limit, (int, float)) and 0 <= limit <= 1):
            raise UsageError(
                f'limit of UnreadableImagesHook must be a share from 0 to 1, not {limit!r}.'
            )
        self.limit = limit
        self.interval = interval
        self.bad_images: dict[int, BadImages] = {}  # by data set

    def prepare_dataloader(self, runner, dataloader: DataLoader, training: bool) -> None:
        """Guard the data sets of a loader whose workers have not started."""
        for dataset in base_datasets(dataloader.dataset):
            bad = None
            if training and not dataset.test_mode:
                bad = self.bad_images.setdefault(id(dataset), BadImages(dataset, self.limit))
            guard_pipeline(dataset, bad)

    def before_run(self, runner) -> None:
        """Guard all data."""
        for split, dataloader in built_dataloaders(runner):
            self.prepare_dataloader(runner, dataloader, split == 'train')

    def before_train_epoch(self, runner) -> None:
        """Guard a pipeline that has been put in."""
        self.prepare_dataloader(runner, runner.train_dataloader, True)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Report, and exchange counts now and then."""
        self._report(runner)
        if self.every_n_train_iters(runner, self.interval):
            self.after_train_epoch(runner)

    def after_train_epoch(self, runner) -> None:
        """Report, and exchange counts."""
        try:
            for bad in self.bad_images.values():
                bad.share()
        finally:
            self._report(runner)

    def after_run(self, runner) -> None:
        """Report the rest."""
        self._report(runner)

    def _report(self, runner) -> None:
        for bad in self.bad_images.values():
            for path in bad.take_unreported():
                runner.logger.warning(
                    f'Image {path} cannot be read and was replaced by another one; up to '
                    f'{bad.allowed} of {len(bad.found)} may be (limit={bad.limit:g}).'
                )
