# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A check of annotations before the first step."""

from __future__ import annotations

from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader

from ...datasets.bad_input import base_datasets
from ...datasets.checks import check_counting, check_dataset, check_void_labels
from ..errors import UsageError
from ..runner_parts import bare_model, built_dataloaders


@HOOKS.register_module()
class AnnotationsHook(Hook):
    """Checks every data set and metric of a run before its first step.

    Objects whose box has no area, swapped corners or numbers that are not finite, or lies outside
    its image, whose label is no class, or which have no mask where one is needed, are left out and
    named, or refused; where no object is left, or label images hold nothing to learn, the run ends.
    So it does where labels, folders or settings contradict each other. It works on the data sets of
    the three toolboxes and on those that derive from them.

    mmengine's loop over iterations starts its workers before any hook is called: with workers it
    needs :class:`~mmdmformer.engine.ResumableIterLoop` to leave objects out.

    Args:
        bad_objects (str): ``'leave_out'`` or ``'refuse'``. Defaults to ``'leave_out'``.
        label_images (int): Of how many label images of a data set the values are read before the
            first step; the others are checked when they are loaded. Defaults to 1000.

    Examples:
        >>> default_hooks = dict(annotations=dict(type='AnnotationsHook', bad_objects='refuse'))
    """

    def __init__(self, bad_objects: str = 'leave_out', label_images: int = 1000) -> None:
        if bad_objects not in ('leave_out', 'refuse'):
            raise UsageError(
                "bad_objects of AnnotationsHook must be 'leave_out' or 'refuse', not "
                f'{bad_objects!r}.'
            )
        self.bad_objects = bad_objects
        self.label_images = label_images
        self._checked: list[BaseDataset] = []

    def prepare_dataloader(self, runner, dataloader: DataLoader, training: bool) -> None:
        """Check the data sets of a loader whose workers have not started."""
        self._check(runner, dataloader, refuse=self.bad_objects == 'refuse')

    def before_run(self, runner) -> None:
        """Check all data and metrics."""
        for split, dataloader in built_dataloaders(runner):
            started = split == 'train' and hasattr(runner.train_loop, 'dataloader_iterator')
            too_late = started and dataloader.num_workers > 0
            self._check(runner, dataloader, refuse=too_late or self.bad_objects == 'refuse')
            if split != 'train':
                metrics = _metrics(runner)[split]
                check_counting(dataloader.dataset, bare_model(runner.model), metrics)

    def _check(self, runner, dataloader: DataLoader, refuse: bool) -> None:
        for dataset in base_datasets(dataloader.dataset):
            check_void_labels(dataset, bare_model(runner.model), _metrics(runner))
            if any(dataset is done for done in self._checked) or not len(dataset):
                continue
            self._checked.append(dataset)
            check_dataset(dataset, refuse, self.label_images)


def _metrics(runner) -> dict[str, list[BaseMetric]]:
    """The metrics of validation and test."""
    loops = {split: getattr(runner, f'_{split}_loop', None) for split in ('val', 'test')}
    evaluators = {split: getattr(loop, 'evaluator', None) for split, loop in loops.items()}
    return {split: getattr(each, 'metrics', []) for split, each in evaluators.items()}
