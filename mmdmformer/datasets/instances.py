# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of COCO's instance annotations."""

import math
from collections.abc import Mapping
from typing import Any

from .annotations import (
    CROWD,
    IGNORED,
    NARROW,
    NO_MASK,
    RELATIVE,
    ZERO_AREA,
    LeftOut,
    find_box_fault,
)
from .bad_input import BadInputError

_FIX = 'correct or restore the file'
# pycocotools draws a polygon in memory that grows with its length, and crashes on longer ones.
_FARTHEST = 100_000  # pixels


def _is_key(value: Any) -> bool:
    return isinstance(value, (int, float, str)) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_side(value: Any) -> bool:
    """128.0 is one too."""
    return _is_number(value) and 0 < value <= _FARTHEST and int(value) == value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= _FARTHEST**2  # NaN is not


_FIELDS = {
    'images': dict(id=_is_key, file_name=_is_text, height=_is_side, width=_is_side),
    'annotations': dict(id=_is_key, image_id=_is_key, category_id=_is_key, bbox=lambda _: True),
    'categories': dict(id=_is_key, name=_is_text),
}


def check_instances(content: Any, name: str) -> None:
    """Check that each entry of an annotation file is complete and refers to others that exist.

    pycocotools and mmdet leave out what refers to nothing without a word. pycocotools fills a mask
    that is not of its image's size with what the memory held before, or crashes.

    Args:
        content (Any): What the JSON file holds.
        name (str): The file, for the message.

    Raises:
        BadInputError: Naming the file and the first entry that is wrong.
    """
    if not isinstance(content, Mapping):
        raise BadInputError(f'{name} holds no COCO annotations: {_FIX}.')
    for section in _FIELDS:
        if section == 'annotations' and section not in content:
            continue  # a test set
        entries = content.get(section)
        if not isinstance(entries, list):
            raise BadInputError(f'{name} has no list of {section}: {_FIX}.')
        _check_entries(entries, section, name)
    sizes = {image['id']: [image['height'], image['width']] for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    for annotation in content.get('annotations', ()):
        fault = _find_fault(annotation, sizes, categories)
        if fault is not None:
            raise BadInputError(f'{name}: annotation {annotation["id"]} {fault}: {_FIX}.')


def _check_entries(entries: list, section: str, name: str) -> None:
    known = set()
    for number, entry in enumerate(entries):
        fault = _find_field_fault(entry, section)
        if fault is None and entry['id'] in known:
            fault = 'has the id of another one'
        if fault is not None:
            key = entry.get('id') if isinstance(entry, Mapping) else None
            what = f'entry {number} of {section} (id {_short(key)})'
            raise BadInputError(f'{name}: {what} {fault}: {_FIX}.')
        known.add(entry['id'])


def _find_field_fault(entry: Any, section: str) -> str | None:
    if not isinstance(entry, Mapping):
        return f'is {_short(entry)} instead of an object'
    for field, fits in _FIELDS[section].items():
        if field not in entry:
            return f'has no {field}'
        if not fits(entry[field]):
            return f'has the {field} {_short(entry[field])}'
    return None


def _find_fault(annotation: Mapping, sizes: Mapping, categories: set) -> str | None:
    size = sizes.get(annotation['image_id'])
    if size is None:
        return f'refers to image {annotation["image_id"]}, which is not in the file'
    if annotation['category_id'] not in categories:
        return f'refers to category {annotation["category_id"]}, which is not in the file'
    box = annotation['bbox']
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_coordinate, box))):
        return f'has the bbox {_short(box)} instead of four numbers'
    if not _is_number(annotation.get('area', 0)):
        return f'has the area {_short(annotation["area"])} instead of a number'
    if annotation.get('iscrowd', 0) not in (0, 1):
        return f'has the iscrowd {_short(annotation["iscrowd"])} instead of 0 or 1'
    mask = annotation.get('segmentation')
    if isinstance(mask, list):
        bad = [part for part in mask if not (_are_coordinates(part) and len(part) % 2 == 0)]
        return f'has the polygon {_short(bad[0])} instead of pairs of numbers' if bad else None
    if mask is not None and not _fills(mask, size):
        return f'has a mask whose run lengths do not fill its image of {size[0]} x {size[1]} pixels'
    return None


def _is_coordinate(value: Any) -> bool:
    """Whether this is a number, be it not finite, which is told of boxes one by one."""
    return _is_number(value) or (isinstance(value, float) and not math.isfinite(value))


def _are_coordinates(values: Any) -> bool:
    """Whether this is a list of numbers in which all are finite and none is absurd."""
    if not isinstance(values, list):
        return False
    try:
        if not math.isfinite(sum(values)):  # min() and max() may pass over a NaN
            return False
        return min(values, default=0) >= -_FARTHEST and max(values, default=0) <= _FARTHEST
    except (TypeError, OverflowError):
        return False


def _fills(mask: Any, size: list[int]) -> bool:
    """Whether a mask of run lengths covers an image of ``size`` [H, W] exactly."""
    if not isinstance(mask, Mapping) or mask.get('size') != size:
        return False
    counts = mask.get('counts')
    try:
        counts = _decode_counts(counts) if isinstance(counts, str) else counts
        return isinstance(counts, list) and min(counts) >= 0 and sum(counts) == math.prod(size)
    except (TypeError, ValueError, IndexError):
        return False


def complete_instances(content: dict) -> None:
    """Write out what other readers take for granted and labeling tools leave out.

    Sides become whole numbers, a missing ``iscrowd`` 0, and of a mask the parts with fewer than
    three points go, which pycocotools takes for boxes. Of two categories of one name, the one that
    no object has goes, or the first: some tools write a group as a category of its own.

    Args:
        content (dict): As :func:`check_instances` accepts it; changed in place.
    """
    for image in content['images']:
        image.update(height=int(image['height']), width=int(image['width']))
    for annotation in content.get('annotations', ()):
        annotation.setdefault('iscrowd', 0)
        mask = annotation.get('segmentation')
        if isinstance(mask, list):
            annotation['segmentation'] = [part for part in mask if len(part) >= 6]
    used = {annotation['category_id'] for annotation in content.get('annotations', ())}
    named = {category['name'] for category in content['categories'] if category['id'] in used}
    last = {category['name']: category['id'] for category in content['categories']}
    content['categories'] = [
        category
        for category in content['categories']
        if category['id'] in used
        or (category['name'] not in named and category['id'] == last[category['name']])
    ]


def leave_out_faulty(content: dict, left_out: LeftOut) -> None:
    """Take out the objects whose box can be none.

    Args:
        content (dict): As :func:`check_instances` accepts it; changed in place.
        left_out (LeftOut): Where they are counted.
    """
    if 'annotations' not in content:
        return
    images = {image['id']: image for image in content['images']}
    left_out.total += len(content['annotations'])
    kept = []
    for annotation in content['annotations']:
        x, y, width, height = annotation['bbox']
        image = images[annotation['image_id']]
        fault = find_box_fault((x, y, x + width, y + height), image['width'], image['height'])
        if fault is None:
            kept.append(annotation)
        else:
            left_out.add(fault, describe(annotation, image))
    content['annotations'] = kept


def find_cause(annotation: Mapping, with_mask: bool) -> str | None:
    """Why an object whose box could be one counts neither in training nor in an evaluation.

    Args:
        annotation (Mapping): As :func:`complete_instances` leaves it.
        with_mask (bool): Whether masks are needed.

    Returns:
        str | None: One of :data:`~mmdmformer.datasets.annotations.FIXES`, or None if it counts.
    """
    x, y, width, height = annotation['bbox']
    if min(x, y) >= 0 and max(x + width, y + height) <= 1:
        return RELATIVE
    if with_mask and not has_mask(annotation):
        return NO_MASK
    return CROWD if annotation['iscrowd'] else None


def find_training_cause(annotation: Mapping, with_mask: bool) -> str | None:
    """Why an object does not count in training, where mmdet's CocoDataset drops more of them."""
    if annotation.get('ignore'):
        return IGNORED
    cause = find_cause(annotation, with_mask)
    if cause is None and min(annotation['bbox'][2:]) < 1:
        return NARROW
    if cause is None and annotation['area'] <= 0:
        return ZERO_AREA
    return cause


def has_mask(annotation: Mapping) -> bool:
    """Whether an object has a polygon of three points or more, or run lengths with a pixel."""
    mask = annotation.get('segmentation')
    if not isinstance(mask, Mapping):
        return any(len(part) >= 6 for part in mask or ())
    counts = mask['counts']
    return any((_decode_counts(counts) if isinstance(counts, str) else counts)[1::2])


def describe(annotation: Mapping, image: Mapping) -> str:
    """Name an object by its number, its image and its box."""
    box = ', '.join(f'{number:g}' for number in annotation['bbox'])
    return f'annotation {annotation["id"]} of {image["file_name"]}, bbox [{box}]'


def _decode_counts(text: str) -> list[int]:
    """Decode COCO's compressed run lengths.

    A number is written in groups of five bits, the lowest first, each as a character from ``0`` on
    whose sixth bit says that more follow; from the fourth on a number is the difference to the
    last but one.

    Args:
        text (str): As ``pycocotools.mask.encode`` writes it.

    Returns:
        list[int]: The lengths.

    Raises:
        IndexError: If the text ends within a number.

    Examples:
        >>> _decode_counts('52203')
        [5, 2, 2, 2, 5]
    """
    counts: list[int] = []
    place = 0
    while place < len(text):
        value, bits, group = 0, 0, 32
        while group & 32:
            group = ord(text[place]) - 48
            value |= (group & 31) << bits
            place, bits = place + 1, bits + 5
        if group & 16:
            value -= 1 << bits
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'
