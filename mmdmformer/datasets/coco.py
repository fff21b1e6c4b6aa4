# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""COCO instances whose annotations are checked when they are read. Imported only with mmdet."""

from collections.abc import Sequence

from mmdet.datasets import CocoDataset as MMDetCocoDataset
from mmdet.datasets.api_wrappers import COCO

from .bad_input import BadInputError
from .instances import check_instances


class CheckedCOCO(COCO):
    """mmdet's reader of annotation files, but for what it reads without a word.

    Args:
        annotation_file (str, optional): The JSON file. Defaults to None.

    Raises:
        BadInputError: Naming the file and the first entry that is wrong.
    """

    def __init__(self, annotation_file: str | None = None) -> None:
        self._name = annotation_file
        try:
            super().__init__(annotation_file=annotation_file)
        except (ValueError, RecursionError) as error:  # of JSON and Unicode; of too deep lists
            raise BadInputError(
                f'annotation file {annotation_file} is no valid JSON ({error}): restore the file.'
            ) from error
        except AssertionError as error:  # what pycocotools checks by itself
            raise BadInputError(f'annotation file {annotation_file} is none: {error}.') from error

    def createIndex(self) -> None:
        """Check the content before pycocotools looks into it."""
        check_instances(self.dataset, self._name)
        super().createIndex()

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
        found = super().get_cat_ids(list(cat_names), list(sup_names), list(cat_ids))
        names = [self.cats[number]['name'] for number in found]
        if cat_names and names != list(cat_names):
            missing = [name for name in cat_names if name not in names]
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
