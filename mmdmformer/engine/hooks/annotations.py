# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Wrong annotations: told before the first step."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from ...datasets.annotations import (
    check_classification,
    check_objects,
    most_objects,
)
from ...datasets.bad_input import base_datasets
from ...datasets.label_images import (
    check_label_images,
    check_reduction,
    check_void,
    loads_labels,
)
from ..errors import UsageError
from ..sampling import built_dataloaders


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
        for dataloader, training in built_dataloaders(runner):
            started = training and hasattr(runner.train_loop, 'dataloader_iterator')
            too_late = started and dataloader.num_workers > 0
            self._check(runner, dataloader, refuse=too_late or self.bad_objects == 'refuse')
        for name in ('_val_loop', '_test_loop'):
            loop = getattr(runner, name, None)
            if isinstance(loop, BaseLoop):
                _check_evaluation(loop, _bare(runner.model))

    def _check(self, runner, dataloader: DataLoader, refuse: bool) -> None:
        for dataset in base_datasets(dataloader.dataset):
            if loads_labels(dataset):
                check_reduction(dataset)
                check_void(dict(_void_labels(runner, dataset)), dataset.reduce_zero_label)
            if any(dataset is done for done in self._checked) or not len(dataset):
                continue
            self._checked.append(dataset)
            if loads_labels(dataset):
                check_label_images(dataset, self.label_images)
            elif _has_objects(dataset):
                _check_objects(dataset, refuse)
            elif 'gt_label' in dataset.get_data_info(0):
                check_classification(dataset)


def _has_objects(dataset: BaseDataset) -> bool:
    """Whether entries of a data set hold boxes, as mmdet's do."""
    found = dataset.get_data_info(0).get('instances') if len(dataset) else None
    return isinstance(found, list) and all('bbox' in instance for instance in found)


def _check_objects(dataset: BaseDataset, refuse: bool) -> None:
    if hasattr(dataset, 'left_out'):  # it has checked them when it read them
        if refuse:
            dataset.left_out.refuse()
        return
    known = None
    if 'mmdet.datasets' in sys.modules:
        from ...datasets.coco import read_left_out  # slow to import
        from ...datasets.voc import tell_conversions

        known = read_left_out(dataset)
        tell_conversions(dataset)
    check_objects(dataset, known, refuse)


def _bare(model: Any) -> Any:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _void_labels(runner, dataset: BaseDataset) -> Iterator[tuple[str, int | None]]:
    """Which label is not to be learned, by the setting that says it."""
    yield f'ignore_index of {type(dataset).__name__}', dataset.ignore_index
    model = _bare(runner.model)
    preprocessor = getattr(model, 'data_preprocessor', None)
    yield 'data_preprocessor.seg_pad_val', getattr(preprocessor, 'seg_pad_val', None)
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for number, head in enumerate(heads if isinstance(heads, nn.ModuleList) else [heads]):
            yield f'ignore_index of {name} {number}', getattr(head, 'ignore_index', None)
    for name in ('_val_loop', '_test_loop'):
        evaluator = getattr(getattr(runner, name, None), 'evaluator', None)
        for metric in getattr(evaluator, 'metrics', ()):
            setting = f'ignore_index of {type(metric).__name__}{name.removesuffix("_loop")}'
            yield setting, getattr(metric, 'ignore_index', None)


def _check_evaluation(loop: BaseLoop, model: Any) -> None:
    """Check what counts objects: the model's limit and the metrics."""
    datasets = [found for found in base_datasets(loop.dataloader.dataset) if _has_objects(found)]
    if not datasets:
        return
    config = getattr(model, 'test_cfg', None) or {}
    limit = (config.get('rcnn') or config).get('max_per_img')
    for dataset in datasets:
        most, path = most_objects(dataset)
        if limit is not None and 0 < limit < most:
            print_log(
                f'{path} holds {most} objects, and the model finds {limit} in an image at most: '
                'raise max_per_img in its test_cfg.',
                'current',
                logging.WARNING,
            )
    if 'mmdet.evaluation' in sys.modules:
        from ...datasets.coco_metric import check_metric  # slow to import

        for metric in loop.evaluator.metrics:
            check_metric(metric, datasets)
