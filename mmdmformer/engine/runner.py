# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mmengine's runner with data sets that name the files that cannot be used."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from ..datasets.bad_input import BadImages, base_datasets, guard_pipeline

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
    """mmengine's runner, but for unreadable images and broken annotations.

    An unreadable training image is written into the log and replaced by another one, until more
    than the share ``bad_image_limit`` of the config (:data:`BAD_IMAGE_LIMIT` if it has none) is
    unreadable. Any other file that cannot be used, validation and test images included, stops the
    run with its name. Data sets are guarded before workers start, so that all of them share a
    count; the processes of a distributed run exchange theirs every 50 iterations.
    """

    _tolerant = False  # while the data of the training loop are built

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop with data that tolerate some unreadable images."""
        self.bad_images: list[BadImages] = []
        self.register_hook(_BadImagesHook())
        self._tolerant = True
        try:
            return super().build_train_loop(loop)
        finally:
            self._tolerant = False

    def build_dataloader(
        self, dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a data loader as mmengine does, and guard its data sets."""
        loader = Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        for dataset in base_datasets(loader.dataset):
            bad = None
            if self._tolerant and not dataset.test_mode:
                bad = BadImages(dataset, self.cfg.get('bad_image_limit', BAD_IMAGE_LIMIT))
                self.bad_images.append(bad)
            guard_pipeline(dataset, bad)
        return loader

    def train(self) -> nn.Module:
        """Train, and at the end or at an error report the unreadable images not yet reported."""
        try:
            return super().train()
        finally:
            self.report_bad_images()

    def report_bad_images(self) -> None:
        """Write the paths of images that were found to be unreadable into the log."""
        for bad in getattr(self, 'bad_images', ()):
            for path in bad.take_unreported():
                self.logger.warning(
                    f'Image {path} cannot be read and was replaced by another one; up to '
                    f'{bad.allowed} of {len(bad.found)} may be (bad_image_limit={bad.limit:g}).'
                )
