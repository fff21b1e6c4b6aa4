# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""COCO instances whose annotations are checked when they are read. Imported only with mmdet."""

from collections.abc import Sequence

from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.fileio import get_local_path
from pycocotools import mask as mask_tools

from .annotations import LeftOut, check_class_names, needs_masks
from .bad_input import BadInputError
from .instances import (
    check_instances,
    complete_instances,
    describe,
    find_training_cause,
    has_mask,
    leave_out_faulty,
)


class CheckedCOCO(COCO):
    """mmdet's reader of annotation files, but for what it reads without a word.

    What may be missing is written out: ``iscrowd`` is 0 then, and ``area`` that of the mask or the
    box. Objects whose box can be none are left out.

    Args:
        annotation_file (str, optional): The JSON file. Defaults to None.
        name (str, optional): What messages call it. Defaults to ``annotation_file``.

    Attributes:
        left_out (LeftOut): The objects that were left out.

    Raises:
        BadInputError: Naming the file and the first entry that is wrong.
    """

    def __init__(self, annotation_file: str | None = None, name: str | None = None) -> None:
        self._name = name or annotation_file or 'the data set'
        try:
            super().__init__(annotation_file=annotation_file)
        except (ValueError, RecursionError) as error:  # of JSON and Unicode; of too deep lists
            raise BadInputError(
                f'annotation file {self._name} is no valid JSON ({error}): restore the file.'
            ) from error
        except AssertionError as error:  # what pycocotools checks by itself
            raise BadInputError(f'annotation file {self._name} is none: {error}.') from error

    def createIndex(self) -> None:
        """Check and complete the content before pycocotools looks into it."""
        check_instances(self.dataset, self._name)
        complete_instances(self.dataset)
        self.left_out = LeftOut(self._name)
        leave_out_faulty(self.dataset, self.left_out)
        super().createIndex()
        for annotation in self.dataset.get('annotations', ()):
            if 'area' not in annotation:
                annotation['area'] = self._area(annotation)

    def _area(self, annotation: dict) -> float:
        if has_mask(annotation):
            return float(mask_tools.area(self.annToRLE(annotation)))
        return annotation['bbox'][2] * annotation['bbox'][3]

    def count_left_out(self, annotations: list[dict], cat_ids: list, with_mask: bool) -> None:
        """Count which objects take no part in training.

        Args:
            annotations (list[dict]): Of this file.
            cat_ids (list): Their categories that are classes.
            with_mask (bool): Whether masks are needed.
        """
        for annotation in annotations:
            if annotation['category_id'] not in cat_ids:
                self.left_out.total -= 1
            elif (cause := find_training_cause(annotation, with_mask)) is not None:
                self.left_out.add(cause, describe(annotation, self.imgs[annotation['image_id']]))

    def get_cat_ids(
        self, cat_names: Sequence[str] = (), sup_names: Sequence[str] = (), cat_ids: Sequence = ()
    ) -> list:
        """Find categories.

        Args:
            cat_names (Sequence[str]): The classes of a data set.
            sup_names (Sequence[str]): Names of groups of categories.
            cat_ids (Sequence): Numbers in the file.

        Returns:
            list: Their numbers, in the order of the file, by which mmdet numbers the labels.

        Raises:
            BadInputError: If the file lacks one of the classes, or orders them otherwise.
        """
        check_class_names(cat_names, f'the data set of {self._name}')
        found = super().get_cat_ids(list(cat_names), list(sup_names), list(cat_ids))
        names = [self.cats[number]['name'] for number in found]
        if cat_names and names != list(cat_names):
            missing = [name for name in cat_names if name not in names]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise BadInputError(
                    f'{self._name} has two categories called {twice}: give their objects '
                    'one category_id, or the categories two names.'
                )
            fault = f'has no category {missing[0]}' if missing else f'has the order {names[:20]}'
            raise BadInputError(
                f'{self._name} {fault}, and its order of categories numbers the labels: give the '
                "data set's metainfo the classes of the file, in their order."
            )
        return found


class CocoDataset(MMDetCocoDataset):
    """mmdet's data set with :class:`CheckedCOCO`.

    In a config: ``type='mmdmformer.datasets.coco.CocoDataset'``, which needs no import.
    """

    COCOAPI = CheckedCOCO
    left_out: LeftOut

    def load_data_list(self) -> list[dict]:
        """Read the annotations.

        Returns:
            list[dict]: One for each image.

        Raises:
            BadInputError: If the file is broken, or if no object of it takes part.
        """
        self.left_out = LeftOut(self.ann_file)
        self._with_mask = needs_masks(self)
        data_list = super().load_data_list()
        self.left_out.report()
        return data_list

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Read the annotations of an image, and count the objects that take no part.

        Args:
            raw_data_info (dict): The entries of the image and of its objects.

        Returns:
            dict: What the pipeline gets.
        """
        self.left_out = self.coco.left_out
        self.coco.count_left_out(raw_data_info['raw_ann_info'], self.cat_ids, self._with_mask)
        parsed = super().parse_data_info(raw_data_info)
        if self._with_mask:
            parsed['instances'] = [found for found in parsed['instances'] if 'mask' in found]
        return parsed

    def filter_data(self) -> list[dict]:
        """Leave out the images that ``filter_cfg`` names.

        Returns:
            list[dict]: One for each image that is left.

        Raises:
            BadInputError: If none is left.
        """
        data_list = super().filter_data()
        if not data_list:
            raise BadInputError(
                f'{self.ann_file} has no image that can be used (filter_cfg={self.filter_cfg}): '
                'correct or restore the file.'
            )
        return data_list


def read_left_out(dataset: MMDetCocoDataset) -> LeftOut | None:
    """Which objects mmdet's own CocoDataset has left out of its file, without a word.

    Args:
        dataset (MMDetCocoDataset): Whose file is read again, and checked.

    Returns:
        LeftOut | None: None for data sets that read their files otherwise.
    """
    kind = type(dataset)
    for method in ('load_data_list', 'parse_data_info'):
        if getattr(kind, method, None) is not getattr(MMDetCocoDataset, method):
            return None
    with get_local_path(dataset.ann_file, backend_args=dataset.backend_args) as path:
        coco = CheckedCOCO(path, dataset.ann_file)
    categories = coco.get_cat_ids(cat_names=dataset.metainfo['classes'])
    coco.count_left_out(coco.dataset.get('annotations', []), categories, needs_masks(dataset))
    return coco.left_out
