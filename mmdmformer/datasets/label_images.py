# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of the label images of semantic segmentation and of their ignored values."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from .bad_input import AnnotationGuard, BadInputError, annotation_steps

_NAMED = 10  # classes that a sentence names


def loads_labels(dataset: BaseDataset) -> bool:
    """Whether a data set is one of mmseg's whose pipeline loads label images."""
    is_one = hasattr(dataset, 'ignore_index') and hasattr(dataset, 'reduce_zero_label')
    return is_one and any(annotation_steps(dataset.pipeline))


def check_void(places: Mapping[str, int | None], reduced: bool) -> None:
    """Refuse settings that disagree which label is not to be learned.

    Args:
        places (Mapping[str, int | None]): The label by the setting that says it; None says none.
        reduced (bool): Whether label 0 becomes 255.

    Raises:
        BadInputError: Naming each setting and its value.
    """
    said = {place: label for place, label in places.items() if label is not None}
    listed = ', '.join(f'{place}={label}' for place, label in said.items())
    if len(set(said.values())) > 1:
        raise BadInputError(
            f'the settings disagree which label is not to be learned ({listed}): give all one '
            'value.'
        )
    if reduced and set(said.values()) - {255}:
        raise BadInputError(
            f'reduce_zero_label makes 255 of label 0, so that it is not learned, but {listed}: set '
            '255.'
        )


def check_reduction(dataset: BaseDataset) -> None:
    """Refuse a pipeline and a data set that disagree whether label 0 is a class.

    Args:
        dataset (BaseDataset): One of mmseg's.

    Raises:
        BadInputError: Naming the two values.
    """
    for step in annotation_steps(dataset.pipeline):
        said = getattr(step, 'reduce_zero_label', None)
        if said not in (None, dataset.reduce_zero_label):
            raise BadInputError(
                f'reduce_zero_label is {said} in {type(step).__name__} of the pipeline and '
                f'{dataset.reduce_zero_label} in the data set {type(dataset).__name__}: set it in '
                'the data set alone.'
            )


def check_label_images(dataset: BaseDataset, limit: int) -> None:
    """Look into the label images of a data set.

    Args:
        dataset (BaseDataset): One of mmseg's.
        limit (int): Of more files than these, as many are read, spread evenly.

    Raises:
        BadInputError: Naming a file with a value that is no class, or the folder if there is
            nothing to learn in its files.
    """
    classes = dataset.metainfo.get('classes') or ()
    guard = AnnotationGuard(next(annotation_steps(dataset.pipeline)), dataset)
    seen = np.zeros(256, bool)
    numbers = np.linspace(0, len(dataset) - 1, min(len(dataset), limit)).round().astype(int)
    for index in numbers.tolist() if classes else ():
        labels = guard.read(dataset.get_data_info(index))
        seen |= np.bincount(labels.astype(np.uint8).ravel(), minlength=256) > 0
    found = [label for label in np.flatnonzero(seen[: len(classes)]) if label != guard.ignored]
    part = '' if len(numbers) == len(dataset) else f'{len(numbers):,} of '
    folder = dataset.data_prefix.get('seg_map_path')
    where = f'{part}the {len(dataset):,} label images of {folder}'
    background_alone = found == [0] and seen[255] and guard.ignored == 255 and len(classes) > 1
    if len(numbers) and classes and (not found or background_alone):
        raise BadInputError(
            f'{where} hold nothing but {" and ".join(map(str, np.flatnonzero(seen)))}'
            f'{" after reduce_zero_label" if dataset.reduce_zero_label else ""}, and '
            f'{guard.ignored} is not to be learned: number the classes from '
            f'{int(dataset.reduce_zero_label)} on, 1 in place of 255 for example.'
        )
    missing = [name for label, name in enumerate(classes) if label not in found]
    if missing and len(numbers):
        more = f' and {len(missing) - _NAMED} more' if len(missing) > _NAMED else ''
        print_log(
            f'{where} never show {len(missing)} of the {len(classes)} classes: '
            f'{", ".join(missing[:_NAMED])}{more}.',
            'current',
            logging.WARNING,
        )
