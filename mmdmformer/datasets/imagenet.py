# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""ImageNet's folders and lists, checked when they are read. Imported only with mmpretrain."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine import list_from_file
from mmpretrain.datasets import ImageNet as MMPretrainImageNet

from .annotations import check_class_folders, check_class_names
from .bad_input import BadInputError


class ImageNet(MMPretrainImageNet):
    """mmpretrain's data set, but for labels that it would get wrong without a word.

    It numbers the classes by the order of their folders. So a folder that one split lacks, or has
    under another name, moves the labels of all that follow.

    It also reads the files that end in .webp and .tiff.

    In a config: ``type='mmdmformer.datasets.imagenet.ImageNet'``, which needs no import.
    """

    IMG_EXTENSIONS = (*MMPretrainImageNet.IMG_EXTENSIONS, '.tiff', '.webp')

    def load_data_list(self) -> list[dict]:
        """Find the images and their labels.

        Returns:
            list[dict]: One for each image.

        Raises:
            BadInputError: Naming the folder whose classes are others than the data set's or the
                training split's, or the line of a list that has no image and label.
        """
        if self.with_label and self.ann_file:
            _check_list(self.ann_file, len(self.CLASSES))
        elif self.with_label and Path(self.img_prefix).is_dir():  # no address of a store
            _check_folders(Path(self.img_prefix), self.CLASSES)
        return super().load_data_list()


def _check_list(path: str, num_classes: int) -> None:
    try:
        lines = list_from_file(path)
    except UnicodeDecodeError as error:
        raise BadInputError(f'{path} is no text ({error}): restore the file.') from error
    if not lines:
        raise BadInputError(f'{path} is empty: restore the file.')
    labels: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(' ')
        if not (name and label.isascii() and label.isdecimal() and int(label) < num_classes):
            raise BadInputError(
                f'{path}: line {number} is {line[:80]!r} instead of an image and its label from 0 '
                f'to {num_classes - 1}: correct or restore the file.'
            )
        if labels.setdefault(name, label) != label:
            raise BadInputError(
                f'{path}: line {number} gives {name} the label {label}, after {labels[name]} '
                'above: correct or restore the file.'
            )


def _check_folders(folder: Path, classes: Sequence[str]) -> None:
    check_class_names(classes, f'the data set of {folder}')
    names, num_classes = _folders_in(folder), len(classes)
    if len(names) != num_classes:
        raise BadInputError(
            f'{folder} has {len(names):,} class folders, and the data set {num_classes:,} classes: '
            'restore the folder, or set classes in metainfo.'
        )
    check_class_folders(sorted(names), classes, str(folder))
    training = folder.parent / 'train'
    different = names ^ _folders_in(training) if training.is_dir() else None
    if different:
        raise BadInputError(
            f'{folder} and {training} do not have the same class folders ({min(different)} is in '
            'one only), and their order numbers the labels: restore them.'
        )


def _folders_in(folder: Path) -> set[str]:
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.is_dir()}
