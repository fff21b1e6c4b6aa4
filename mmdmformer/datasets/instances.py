# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What must hold in a file of COCO's instances."""

import math
from collections.abc import Mapping
from typing import Any

from .bad_input import BadInputError

_CURE = 'correct or restore the file'
_FIELDS = {
    'images': ('id', 'file_name', 'height', 'width'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
    'categories': ('id', 'name'),
}


def check_instances(content: Any, name: str) -> None:
    """Check that each entry of an annotation file is complete and refers to others that exist.

    pycocotools and mmdet leave out what refers to nothing without a word.

    Args:
        content (Any): What the JSON file holds.
        name (str): The file, for the message.

    Raises:
        BadInputError: Naming the file and the first entry that is wrong.
    """
    if not isinstance(content, Mapping):
        raise BadInputError(f'{name} holds no COCO annotations: {_CURE}.')
    for section, fields in _FIELDS.items():
        if section == 'annotations' and section not in content:
            continue  # a test set
        entries = content.get(section)
        if not isinstance(entries, list):
            raise BadInputError(f'{name} has no list of {section}: {_CURE}.')
        for number, entry in enumerate(entries):
            missing = [field for field in fields if field not in entry]
            if missing:
                what = f'entry {number} of {section} (id {entry.get("id")})'
                raise BadInputError(f'{name}: {what} has no {missing[0]}: {_CURE}.')
    images = {image['id'] for image in content['images']}
    categories = {category['id'] for category in content['categories']}
    for annotation in content.get('annotations', ()):
        fault = _find_fault(annotation, images, categories)
        if fault is not None:
            raise BadInputError(f'{name}: annotation {annotation["id"]} {fault}: {_CURE}.')


def _find_fault(annotation: Mapping, images: set, categories: set) -> str | None:
    if annotation['image_id'] not in images:
        return f'refers to image {annotation["image_id"]}, which is not in the file'
    if annotation['category_id'] not in categories:
        return f'refers to category {annotation["category_id"]}, which is not in the file'
    box = annotation['bbox']
    numbers = isinstance(box, list) and all(isinstance(x, (int, float)) for x in box)
    if not numbers or len(box) != 4 or not all(map(math.isfinite, box)):
        return f'has the bbox {box} instead of four numbers'
    return None
