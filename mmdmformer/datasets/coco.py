# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""COCO instances whose annotations are checked when they are read. Imported only with mmdet."""

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
        except ValueError as error:  # JSON's and Unicode's errors
            raise BadInputError(
                f'annotation file {annotation_file} is no valid JSON ({error}): restore the file.'
            ) from error

    def createIndex(self) -> None:
        """Check the content before pycocotools looks into it."""
        check_instances(self.dataset, self._name)
        super().createIndex()


class CocoDataset(MMDetCocoDataset):
    """mmdet's data set with :class:`CheckedCOCO`.

    In a config: ``type='mmdmformer.datasets.coco.CocoDataset'``, which needs no import.
    """

    COCOAPI = CheckedCOCO
