# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Conversion of other annotations to COCO's format, and splits as lists of images."""

import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .bad_input import BadInputError
from .layouts import IMAGE_SUFFIXES


def voc_to_coco(
    root: str | Path, split: str, classes: Sequence[str], first_pixel: int = 1
) -> dict[str, Any]:
    """Read Pascal VOC's boxes as mmdet's ``XMLDataset`` does.

    Args:
        root (str | Path): Folder with ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        split (str): Name of the list in ``ImageSets/Main``, such as 'train'.
        classes (Sequence[str]): Names of the classes; objects of others are left out.
        first_pixel (int): The number of an image's first pixel in the files, which is subtracted
            from coordinates: 1, as VOC has it, or 0, as many tools write. Defaults to 1.

    Returns:
        dict: What a JSON file of COCO's instances holds; ``iscrowd`` is 1 where an object is
        difficult.

    Raises:
        BadInputError: If a file is missing or has no image size, or an object no name or no box.
    """
    root = Path(root)
    images: list[dict] = []
    annotations: list[dict] = []
    for number, name in enumerate(_lines(root / f'ImageSets/Main/{split}.txt'), 1):
        path = root / f'Annotations/{name}.xml'
        try:
            tree = ET.parse(path).getroot()
            height, width = (int(tree.findtext(f'size/{side}', '')) for side in ('height', 'width'))
            objects = [_voc_object(element, first_pixel) for element in tree.iter('object')]
        except (OSError, ET.ParseError, ValueError) as error:
            raise BadInputError(
                f'{path} has no image size, or an object without a name or four numbers ({error}): '
                'correct or restore the file.'
            ) from error
        images.append(dict(id=number, file_name=f'{name}.jpg', height=height, width=width))
        for class_name, (left, top, right, bottom), difficult in objects:
            if class_name in classes:
                box = [left, top, right - left, bottom - top]
                annotations.append(_annotation(annotations, number, box, box[2] * box[3]))
                annotations[-1].update(
                    category_id=classes.index(class_name) + 1, iscrowd=int(difficult)
                )
    return _content(images, annotations, classes)


def _voc_object(element: ET.Element, first_pixel: int) -> tuple[str, list[int], bool]:
    corners = ('xmin', 'ymin', 'xmax', 'ymax')
    box = [int(float(element.findtext(f'bndbox/{corner}', ''))) - first_pixel for corner in corners]
    name = element.findtext('name')
    if name is None:
        raise ValueError('an object has no name')
    return name, box, element.findtext('difficult', '0').strip() == '1'


def masks_to_coco(root: str | Path, names: Iterable[str], class_name: str) -> dict[str, Any]:
    """Read one mask image for each object, as the nuclei of the 2018 Data Science Bowl have them.

    Args:
        root (str | Path): Folder with ``<name>/images/<name>.png`` and ``<name>/masks/*.png``,
            whose pixels other than 0 are the object.
        names (Iterable[str]): Names of the images to take.
        class_name (str): Name of the one class.

    Returns:
        dict: What a JSON file of COCO's instances holds, with masks as run lengths. Masks of no
        pixel are left out.

    Raises:
        BadInputError: If a file cannot be read or a mask is not of its image's size.
    """
    from pycocotools.mask import encode

    root = Path(root)
    images: list[dict] = []
    annotations: list[dict] = []
    for number, name in enumerate(names, 1):
        file = f'{name}/images/{name}.png'
        height, width = _gray(root / file).shape
        images.append(dict(id=number, file_name=file, height=height, width=width))
        for path in sorted((root / name / 'masks').glob('*.png')):
            mask = _gray(path) != 0
            if mask.shape != (height, width):
                raise BadInputError(
                    f'{path} has {mask.shape[1]} x {mask.shape[0]} pixels and its image {width} x '
                    f'{height}: correct or restore the file.'
                )
            if not mask.any():
                continue
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            corner = np.array([columns[0], rows[0]])
            size = np.array([columns[-1], rows[-1]]) + 1 - corner
            runs = encode(np.asfortranarray(mask, np.uint8))
            annotation = _annotation(
                annotations, number, [*corner.tolist(), *size.tolist()], int(mask.sum())
            )
            annotation['segmentation'] = dict(size=runs['size'], counts=runs['counts'].decode())
            annotations.append(annotation)
    return _content(images, annotations, [class_name])


def split_of_name(name: str) -> str:
    """Assign a name to 'test' (2 of 10), 'val' (1) or 'train' (7) by its digest, the same anywhere.

    Args:
        name (str): Of an image.

    Returns:
        str: The split.

    Examples:
        >>> [split_of_name(name) for name in ('a0', 'a1', 'a2')]
        ['val', 'test', 'train']
    """
    digit = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10
    return 'test' if digit < 2 else 'val' if digit == 2 else 'train'


def split_folders(root: str | Path, every: int = 10) -> dict[str, list[str]]:
    """Take each n-th image of each class, in the order of names, from training for validation.

    Args:
        root (str | Path): Folder with a folder of images for each class.
        every (int): The n. Defaults to 10.

    Returns:
        dict[str, list[str]]: For 'train' and 'val' the lines that mmpretrain's ``CustomDataset``
        takes as ``ann_file``: image and label.

    Raises:
        BadInputError: If there is no folder with images.
    """
    lines: dict[str, list[str]] = dict(train=[], val=[])
    folders = sorted(path for path in Path(root).iterdir() if path.is_dir())
    for label, folder in enumerate(folders):
        images = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        for number, name in enumerate(images, 1):
            split = 'val' if number % every == 0 else 'train'
            lines[split].append(f'{folder.name}/{name} {label}')
    if not lines['train']:
        raise BadInputError(f'{root} has no folder with images: give the directory of the classes.')
    return lines


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding='utf-8').split()
    except OSError as error:
        raise BadInputError(f'{path} cannot be read ({error.strerror}): name a split.') from error


def _gray(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise BadInputError(f'{path} is missing or no image: restore the file.')
    return image


def _annotation(before: Sequence, image_id: int, box: list[int], area: int) -> dict[str, Any]:
    return dict(
        id=len(before) + 1, image_id=image_id, category_id=1, bbox=box, area=area, iscrowd=0
    )


def _content(images: list, annotations: list, classes: Sequence[str]) -> dict[str, Any]:
    categories = [dict(id=number, name=name) for number, name in enumerate(classes, 1)]
    return dict(images=images, annotations=annotations, categories=categories)
