# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of loaded annotations: objects that are not used, labels that are no class."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from .bad_input import BadInputError, annotation_steps

_NAMED = 3  # objects of each reason that a sentence names
_IMAGES = {'.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp'}

# Why an object takes no part, and what helps.
CROWD = 'that iscrowd marks'
IGNORED = 'that ignore marks'
DIFFICULT = 'marked as difficult or as crowds'
NO_MASK = 'without a mask of three points or more'
RELATIVE = 'whose box lies within 0 to 1'
NARROW = 'whose box is narrower than a pixel'
ZERO_AREA = 'whose area is 0'
NOT_FINITE = 'whose box is not finite'
SWAPPED = 'whose box has swapped corners'
NO_BOX_AREA = 'whose box has no area'
OUTSIDE = 'whose box lies outside its image'
NO_CLASS = 'whose label is no class'
MARKS = (CROWD, IGNORED, DIFFICULT)
FIXES = {
    CROWD: 'set iscrowd to 0, which is 1 for regions that are not to be learned',
    IGNORED: 'remove ignore',
    DIFFICULT: 'set difficult or iscrowd to 0',
    NO_MASK: 'draw masks, or take a model and a metric of boxes alone',
    RELATIVE: "multiply boxes by their image's sides, as they are read as pixels",
    NARROW: 'draw boxes of a pixel or more',
    ZERO_AREA: 'remove area, which is then computed',
    NOT_FINITE: 'write numbers',
    SWAPPED: 'write the upper left corner first',
    NO_BOX_AREA: 'draw boxes with an area',
    OUTSIDE: 'write boxes in pixels of their image',
    NO_CLASS: 'give the data set all classes of its files',
}


class LeftOut:
    """The objects of a file or folder of annotations that take no part.

    Args:
        name (str): The file or folder, for the sentence.

    Attributes:
        total (int): How many objects there are, those that take part included.
        reasons (dict[str, list[str]]): The objects by the reason, one of :data:`FIXES`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = 0
        self.reasons: dict[str, list[str]] = {}

    def add(self, reason: str, what: str) -> None:
        """Count an object, named ``what``."""
        self.reasons.setdefault(reason, []).append(what)

    @property
    def faults(self) -> dict[str, list[str]]:
        """The objects that take no part through a fault, not because they are marked so."""
        return {why: found for why, found in self.reasons.items() if why not in MARKS}

    @property
    def sentence(self) -> str:
        """How many there are, why, and the first of each reason."""
        count = sum(map(len, self.reasons.values()))
        parts = (
            f'{len(found):,} {why} ({"; ".join(found[:_NAMED])}'
            f'{" and so on" if len(found) > _NAMED else ""})'
            for why, found in self.reasons.items()
        )
        return f'{self.name}: {count:,} of {self.total:,} objects take no part: {", ".join(parts)}'

    def report(self) -> None:
        """Write the sentence into the log, if there is something to say.

        Raises:
            BadInputError: If there are objects and none of them takes part.
        """
        if not self.reasons:
            return
        if sum(map(len, self.reasons.values())) >= self.total:
            fix = ', '.join(FIXES[why] for why in self.reasons)
            raise BadInputError(f'{self.sentence}; none is left: {fix}.')
        level = logging.WARNING if self.faults else logging.INFO
        print_log(f'{self.sentence}.', 'current', level)

    def refuse(self) -> None:
        """Raise BadInputError if an object has a fault."""
        if self.faults:
            raise BadInputError(
                f'{self.sentence}; correct them, or set bad_objects="leave_out" in AnnotationsHook.'
            )


def find_box_fault(box: Sequence[float], width: float = 0, height: float = 0) -> str | None:
    """Why a box can be no object.

    Args:
        box (Sequence[float]): x1, y1, x2, y2 in pixels.
        width (float): Width of the image; 0 if it is not known.
        height (float): Height of the image; 0 if it is not known.

    Returns:
        str | None: A clause, or None for a box that can be one.

    Examples:
        >>> find_box_fault([3, 3, 1, 5], 8, 8), find_box_fault([7, 7, 9, 9], 8, 8)
        ('whose box has swapped corners', None)
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return NOT_FINITE
    if x2 < x1 or y2 < y1:
        return SWAPPED
    if x2 == x1 or y2 == y1:
        return NO_BOX_AREA
    if width and height and (x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0):
        return OUTSIDE
    return None


def check_class_names(classes: Sequence[str] | None, place: str) -> None:
    """Refuse a text in place of names, whose letters would be the classes.

    Args:
        classes (Sequence[str], optional): What ``metainfo`` says.
        place (str): Where, for the sentence.

    Raises:
        BadInputError: If it is a text.
    """
    if isinstance(classes, str):
        raise BadInputError(
            f'metainfo.classes of {place} is the text {classes!r} instead of a tuple of names: '
            f"write ('{classes}',)."
        )


def needs_masks(dataset: BaseDataset) -> bool:
    """Whether the pipeline of a data set loads masks that stand beside boxes in its file."""
    return any(
        getattr(step, 'with_mask', False)
        and not hasattr(step, '_load_masks_and_semantic_segs')  # of panoptic label images
        for step in annotation_steps(dataset.pipeline)
    )


def check_objects(dataset: BaseDataset, found: LeftOut | None, refuse: bool) -> None:
    """Check the boxes, labels and masks that a data set of detection has read.

    Args:
        dataset (BaseDataset): Objects with a fault are taken out of it.
        found (LeftOut, optional): What its file says, where that is known.
        refuse (bool): Whether a fault is an error.

    Raises:
        BadInputError: Naming the first objects with a fault, if they are refused or none is left.
    """
    read = LeftOut(dataset.ann_file)
    for _ in _without_faults(dataset, read):
        pass
    found = found or read
    found.report()
    if refuse:
        found.refuse()
    if read.faults:
        dataset.data_list = list(_without_faults(dataset, LeftOut('')))
        if dataset.serialize_data:
            dataset.data_bytes, dataset.data_address = dataset._serialize_data()


def _without_faults(dataset: BaseDataset, found: LeftOut) -> Iterator[dict]:
    num_classes = len(dataset.metainfo.get('classes') or ())
    with_mask = needs_masks(dataset)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        size = info.get('width') or 0, info.get('height') or 0
        kept = []
        for number, instance in enumerate(info['instances'], 1):
            found.total += 1
            fault = _find_instance_fault(instance, size, num_classes, with_mask)
            if fault is None:
                kept.append(instance)
            if fault is not None or instance.get('ignore_flag'):
                place = info.get('xml_path') or info.get('img_path')
                found.add(fault or DIFFICULT, f'object {number} of {place}, {instance["bbox"]}')
        yield {**info, 'instances': kept}


def _find_instance_fault(
    instance: dict, size: tuple[int, int], num_classes: int, with_mask: bool
) -> str | None:
    box, label = instance['bbox'], instance.get('bbox_label')
    if len(box) == 4 and (fault := find_box_fault(box, *size)):
        return fault
    if num_classes and isinstance(label, int) and not 0 <= label < num_classes:
        return NO_CLASS
    mask = instance.get('mask')
    polygons = mask if isinstance(mask, list) else ()
    if with_mask and not (isinstance(mask, dict) or any(len(part) >= 6 for part in polygons)):
        return NO_MASK
    return None


def most_objects(dataset: BaseDataset) -> tuple[int, str]:
    """How many objects the fullest image of a data set holds, and which that is."""
    counts = (
        (sum(not found.get('ignore_flag') for found in info['instances']), str(info['img_path']))
        for info in map(dataset.get_data_info, range(len(dataset)))
    )
    return max(counts, default=(0, ''))


def check_class_folders(folders: Sequence[str], classes: Sequence[str], root: str) -> None:
    """Refuse classes that are the names of folders in another order, which numbers the labels.

    Args:
        folders (Sequence[str]): In the order of their labels.
        classes (Sequence[str]): As the data set says.
        root (str): Where the folders are.

    Raises:
        BadInputError: Naming the first that stands elsewhere.
    """
    if list(folders) == list(classes) or sorted(folders) != sorted(classes):
        return
    place = next(i for i, (a, b) in enumerate(zip(folders, classes, strict=True)) if a != b)
    raise BadInputError(
        f'the classes of the data set have {classes[place]} in place {place}, and the folders of '
        f'{root}, whose sorted names number the labels, have {folders[place]}: give the classes in '
        "the order of sorted(classes), in which '10' stands before '2'."
    )


def check_classification(dataset: BaseDataset) -> None:
    """Check labels and folders of a data set of classification.

    Args:
        dataset (BaseDataset): With ``gt_label`` in its entries.

    Raises:
        BadInputError: If a label is no class, or if the classes are the folders in another order.
    """
    classes = dataset.metainfo.get('classes') or ()
    folders = getattr(dataset, 'folder_to_idx', None)
    if folders is not None and not dataset.ann_file:
        check_class_folders(sorted(folders, key=folders.get), classes, dataset.img_prefix)
        _tell_skipped_files(dataset)
        return
    for index in range(len(dataset) if classes else 0):
        info = dataset.get_data_info(index)
        labels = np.ravel(info.get('gt_label', ()))
        if labels.dtype.kind == 'i' and np.any((labels < 0) | (labels >= len(classes))):
            raise BadInputError(
                f'{dataset.ann_file}: {info.get("img_path", index)} has the label '
                f'{info["gt_label"]}, and the data set {len(classes)} classes, which count from 0: '
                'correct the file or the classes.'
            )


def _tell_skipped_files(dataset: BaseDataset) -> None:
    others = _IMAGES.difference(dataset.extensions)
    names = (name for _, _, files in os.walk(dataset.img_prefix) if others for name in files)
    endings = Counter(os.path.splitext(name)[1].lower() for name in names)
    skipped = {ending: endings[ending] for ending in sorted(others) if endings[ending]}
    if skipped:
        counts = ', '.join(f'{count:,} {ending}' for ending, count in skipped.items())
        print_log(
            f'{dataset.img_prefix.rstrip("/")}: {counts} files are left out, as these endings are '
            'not in extensions of the data set: name them there.',
            'current',
            logging.WARNING,
        )
