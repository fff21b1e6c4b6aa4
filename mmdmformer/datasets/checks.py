# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The checks that a data set of a toolbox needs, given the model and the metrics."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch import nn
from torch.utils.data import Dataset

from .annotations import check_class_names, check_classification, check_objects, most_objects
from .bad_input import BadInputError, base_datasets
from .label_images import check_label_images, check_reduction, check_void, loads_labels


def check_dataset(dataset: BaseDataset, refuse: bool, label_images: int) -> None:
    """Check what a data set says of its images.

    Args:
        dataset (BaseDataset): Objects that are left out are removed from it.
        refuse (bool): Whether to raise for them instead.
        label_images (int): Of how many label images the values are read.

    Raises:
        BadInputError: If the data set cannot be trained on.
    """
    check_class_names(dataset.metainfo.get('classes'), f'the {type(dataset).__name__}')
    if loads_labels(dataset):
        check_label_images(dataset, label_images)
    elif _has_objects(dataset):
        _check_objects(dataset, refuse)
    elif 'gt_label' in dataset.get_data_info(0):
        check_classification(dataset)


def check_void_labels(
    dataset: BaseDataset, model: nn.Module, metrics: Mapping[str, Sequence[Any]]
) -> None:
    """Check that all agree which label of label images is not to be learned.

    Args:
        dataset (BaseDataset): A data set; one without label images is passed over.
        model (nn.Module): The segmentor, without wrappers.
        metrics (Mapping): Of each split.

    Raises:
        BadInputError: If they do not.
    """
    if loads_labels(dataset):
        check_reduction(dataset)
        check_void(dict(_void_labels(dataset, model, metrics)), dataset.reduce_zero_label)


def _void_labels(
    dataset: BaseDataset, model: nn.Module, metrics: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[str, int | None]]:
    """Which label is not to be learned, by the setting that says it."""
    yield f'ignore_index of {type(dataset).__name__}', dataset.ignore_index
    preprocessor = getattr(model, 'data_preprocessor', None)
    yield 'data_preprocessor.seg_pad_val', getattr(preprocessor, 'seg_pad_val', None)
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for number, head in enumerate(heads if isinstance(heads, nn.ModuleList) else [heads]):
            yield f'ignore_index of {name} {number}', getattr(head, 'ignore_index', None)
    for split, group in metrics.items():
        for metric in group:
            setting = f'ignore_index of {type(metric).__name__}_{split}'
            yield setting, getattr(metric, 'ignore_index', None)


def check_counting(dataset: Dataset, model: nn.Module, metrics: Sequence[Any]) -> None:
    """Check what counts: metrics of the best classes, and of objects, with the model's limit.

    Args:
        dataset (Dataset): Of a validation or a test.
        model (nn.Module): The model, without wrappers.
        metrics (Sequence): What compares the two.

    Raises:
        BadInputError: If a metric does not fit the data.
    """
    _check_top_k(dataset, metrics)
    datasets = [found for found in base_datasets(dataset) if _has_objects(found)]
    if not datasets:
        return
    config = getattr(model, 'test_cfg', None) or {}
    limit = (config.get('rcnn') or config).get('max_per_img')
    for each in datasets:
        most, path = most_objects(each)
        if limit is not None and 0 < limit < most:
            print_log(
                f'{path} holds {most} objects, and the model finds {limit} in an image at most: '
                'raise max_per_img in its test_cfg.',
                'current',
                logging.WARNING,
            )
    if 'mmdet.evaluation' in sys.modules:
        from .coco_metric import check_metric  # slow to import

        for metric in metrics:
            check_metric(metric, datasets)


def _check_top_k(dataset: Dataset, metrics: Sequence[Any]) -> None:
    """Refuse an accuracy of more classes than there are, which mmpretrain meets after an epoch."""
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    for metric in metrics if classes else ():
        wanted = np.ravel(getattr(metric, 'topk', None) or 0).tolist()
        if max(wanted) > len(classes):
            fitting = tuple(k for k in wanted if k <= len(classes))
            raise BadInputError(
                f'{type(metric).__name__} counts the best {max(wanted)} classes of an image, and '
                f'the data set has {len(classes)}: set topk={fitting} in its evaluator.'
            )


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
        from .coco import read_left_out  # slow to import
        from .voc import tell_conversions

        known = read_left_out(dataset)
        tell_conversions(dataset)
    check_objects(dataset, known, refuse)
