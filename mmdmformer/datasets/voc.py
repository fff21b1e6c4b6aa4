# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Boxes in Pascal VOC's files, as other tools write them. Imported only with mmdet."""

import logging
from typing import Any
from xml.etree import ElementTree

from mmcv import imfrombytes
from mmdet.datasets import XMLDataset as MMDetXMLDataset
from mmengine.dataset import BaseDataset
from mmengine.fileio import get, list_from_file
from mmengine.logging import print_log

from .bad_input import BadInputError


class XMLDataset(MMDetXMLDataset):
    """mmdet's data set for files that count pixels from 0, or that do not know the image's size.

    It replaces what mmdet 3.3's XMLDataset does in these cases: it subtracts 1 from every
    coordinate, as VOC counts pixels from 1, so that a box from 0 begins at -1; it takes a size of
    0 x 0 as it stands, so that ``filter_cfg=dict(min_size=...)`` leaves the image out; a file that
    is broken ends in an error without its name.

    In a config: ``type='mmdmformer.datasets.voc.XMLDataset'``, which needs no import.

    Args:
        first_pixel (int): The number of an image's first pixel in the files: 1, as VOC has it, or
            0, as many tools write. Defaults to 1.
        **kwargs: Of mmdet's ``XMLDataset``.
    """

    def __init__(self, *, first_pixel: int = 1, **kwargs: Any) -> None:
        if first_pixel not in (0, 1):
            raise ValueError(f'first_pixel of XMLDataset must be 0 or 1, not {first_pixel!r}.')
        self.first_pixel = first_pixel
        super().__init__(**kwargs)

    def parse_data_info(self, img_info: dict) -> dict:
        """Read the annotations of an image.

        Args:
            img_info (dict): Its ``img_id``, ``file_name`` and ``xml_path``.

        Returns:
            dict: What the pipeline gets.

        Raises:
            BadInputError: If the file is broken.
        """
        try:
            info = super().parse_data_info(img_info)
        except (ValueError, OverflowError, AttributeError, ElementTree.ParseError) as error:
            raise BadInputError(
                f'annotation {img_info["xml_path"]} cannot be read ({error}): correct or restore '
                'the file.'
            ) from error
        if not (info['height'] and info['width']):
            image = imfrombytes(get(info['img_path'], backend_args=self.backend_args))
            info['height'], info['width'] = image.shape[:2]
        return info

    def _parse_instance_info(self, raw_ann_info: Any, minus_one: bool = True) -> list[dict]:
        return super()._parse_instance_info(raw_ann_info, minus_one and self.first_pixel == 1)


def tell_conversions(dataset: BaseDataset) -> None:
    """Say what mmdet makes of boxes that begin at 0 and of images of an unknown size.

    Args:
        dataset (BaseDataset): Others than those of VOC's files are passed over.
    """
    if not isinstance(dataset, MMDetXMLDataset):
        return
    listed = len(list_from_file(dataset.ann_file, backend_args=dataset.backend_args))
    if dataset._indices is None and len(dataset) < listed:
        _warn(
            f'{listed - len(dataset):,} of {listed:,} images of {dataset.ann_file} are left out by '
            f'filter_cfg={dataset.filter_cfg}, for which a <size> of 0 x 0 is too small: name '
            f"type='{__name__}.XMLDataset', which measures those images."
        )
    infos = map(dataset.get_data_info, range(len(dataset)))
    boxes = [found['bbox'] for info in infos for found in info['instances']]
    shifted = sum(min(box[:2]) == -1 for box in boxes)
    if shifted:
        _warn(
            f'{dataset.ann_file}: {shifted:,} of {len(boxes):,} boxes begin at -1, as XMLDataset '
            'subtracts 1 and their files count pixels from 0: name '
            f"type='{__name__}.XMLDataset' with first_pixel=0."
        )


def _warn(sentence: str) -> None:
    print_log(sentence, 'current', logging.WARNING)
