# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Unreadable images and broken annotations: reported, and skipped where that is harmless.

The steps of a data set's pipeline that read files are wrapped once the data set is built, which
works for every data set that derives from mmengine's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from mmengine.dataset import BaseDataset, Compose
from mmengine.dist import all_reduce
from PIL import Image
from PIL.ExifTags import Base as ExifTag


class BadInputError(Exception):
    """A file of a data set that cannot be used; the message is one sentence with the fix.

    Args:
        message (str): The sentence. A whole traceback is reduced to its last line, as a data
            loader hands over errors of its workers that way.
    """

    def __init__(self, message: str) -> None:
        last_line = message.strip().splitlines()[-1]
        super().__init__(last_line.removeprefix(f'{__name__}.{type(self).__name__}: '))


class BadImages:
    """The unreadable images of a training set, each counted once.

    All workers of a data loader write into the same memory, if this is made before they start.

    Args:
        dataset (BaseDataset): The training set.
        limit (float): The share of its images that may be unreadable, 0 to 1.
    """

    def __init__(self, dataset: BaseDataset, limit: float) -> None:
        self.dataset = dataset
        self.limit = limit
        self.allowed = math.floor(limit * len(dataset) + 1e-9)
        self.found = torch.zeros(len(dataset), dtype=torch.uint8).share_memory_()
        self._reported = torch.zeros(len(dataset), dtype=torch.bool)

    def add(self, index: int) -> None:
        """Count an image.

        Args:
            index (int): Its number in the data set.

        Raises:
            BadInputError: If there are more than the limit allows.
        """
        self.found[index] = 1
        self._check(index)

    def share(self) -> None:
        """Tell the other processes of a distributed run; each must call this.

        Raises:
            BadInputError: If all together found more than the limit allows.
        """
        merged = self.found.clone()
        all_reduce(merged, 'max')
        # Workers go on writing: only set what is set.
        self.found[merged > 0] = 1
        if self.found.any():
            self._check(int(self.found.nonzero()[-1]))

    def take_unreported(self) -> list[str]:
        """Paths of the images that were found since the last call."""
        new = (self.found > 0) & ~self._reported
        self._reported |= new
        return [self._path(i) for i in new.nonzero().ravel().tolist()]

    def _check(self, index: int) -> None:
        count = int(self.found.sum())
        if count > self.allowed:
            raise BadInputError(
                f'image {self._path(index)} cannot be read, and {count} unreadable of '
                f'{len(self.found)} training images are more than the {self.allowed} that '
                f'limit={self.limit:g} of UnreadableImagesHook allows: restore the files or raise '
                'the limit.'
            )

    def _path(self, index: int) -> str:
        return self.dataset.get_data_info(index)['img_path']


def base_datasets(dataset: Any) -> Iterator[BaseDataset]:
    """Yield the data sets that read files, which wrappers (repeated, joined, ...) may hide."""
    if isinstance(dataset, BaseDataset):
        yield dataset
        return
    attributes = getattr(dataset, '__dict__', {})
    inner = [attributes.get(name) for name in ('_dataset', 'dataset')]
    for child in (*inner, *(getattr(dataset, 'datasets', None) or ())):
        if child is not None:
            yield from base_datasets(child)


def annotation_steps(step: Any) -> Iterator[Any]:
    """Yield the steps of a pipeline that load annotations."""
    from mmcv.transforms import LoadAnnotations  # slow to import

    if isinstance(step, (LoadAnnotations, AnnotationGuard)):
        yield getattr(step, 'load', step)
        return
    for name in ('transforms', 'subroutines'):
        inner = getattr(step, name, None)
        for child in inner if isinstance(inner, (list, tuple)) else [inner]:
            if child is not None:
                yield from annotation_steps(child)


def guard_pipeline(dataset: BaseDataset, bad_images: BadImages | None = None) -> None:
    """Let a data set name the files that cannot be used.

    Args:
        dataset (BaseDataset): Its pipeline is changed in place.
        bad_images (BadImages, optional): Where to count unreadable images, which are then replaced
            by others as mmengine's data sets do in training. None raises for each.
            Defaults to None.
    """
    _guard(dataset.pipeline, dataset, bad_images)
    if type(dataset.pipeline) is Compose:
        dataset.pipeline = _NamingPipeline(dataset.pipeline.transforms)


def _guard(step: Any, dataset: BaseDataset, bad_images: BadImages | None) -> Any:
    """The guarded step of a pipeline, or the step itself with guarded steps inside."""
    from mmcv.transforms import LoadAnnotations, LoadImageFromFile  # slow to import

    if isinstance(step, LoadImageFromFile):
        return _ImageGuard(step, bad_images)
    if isinstance(step, LoadAnnotations):
        return AnnotationGuard(step, dataset)
    for name in ('transforms', 'subroutines'):
        inner = getattr(step, name, None)
        if isinstance(inner, list):
            inner[:] = [_guard(child, dataset, bad_images) for child in inner]
        elif inner is not None:
            _guard(inner, dataset, bad_images)
    return step


class _NamingPipeline(Compose):
    """A pipeline whose errors name the step and the image, also those that know of no file."""

    def __call__(self, data: dict) -> dict | None:
        path = data.get('img_path')
        for step in self.transforms:
            try:
                data = step(data)
            except BadInputError:
                raise
            except Exception as error:
                raise RuntimeError(
                    f'{step!r} of the pipeline fails on image {path} ({_describe(error)}): leave '
                    'the image out, or correct the settings of the step.'
                ) from error
            if data is None:  # another image takes its place
                return None
        return data

    def __repr__(self) -> str:
        return repr(Compose(self.transforms))


class _ImageGuard:
    """A step that loads an image, or counts it as unreadable and returns None."""

    def __init__(self, load: Any, bad_images: BadImages | None) -> None:
        self.load = load
        self.bad_images = bad_images

    def __call__(self, results: dict) -> dict | None:
        # of detection; some tools write 0 x 0 for a size that they do not know
        size: tuple = results.get('height'), results.get('width')
        try:
            _refuse_bomb(results['img_path'])
            loaded, cause = self.load(results), 'it is empty'
        except Exception as error:  # each decoder has its own
            loaded, cause = None, _describe(error)
        if loaded is not None:
            if all(size) and size != loaded['img'].shape[:2]:
                raise BadInputError(_other_size(results, size))
            return loaded
        if self.bad_images is None:
            raise BadInputError(
                f'image {results["img_path"]} cannot be read ({cause}): restore the file.'
            )
        self.bad_images.add(results['sample_idx'])
        return None

    def __repr__(self) -> str:
        return repr(self.load)


class AnnotationGuard:
    """A step that loads annotations and checks those of segmentation.

    Args:
        load (Any): The step of a toolbox.
        dataset (BaseDataset): The data set that it works for.
    """

    def __init__(self, load: Any, dataset: BaseDataset) -> None:
        self.load = load
        self.ann_file = dataset.ann_file
        self.num_classes = len(dataset.metainfo.get('classes') or ())
        self.ignored = getattr(dataset, 'ignore_index', None)  # segmentation has one

    def __call__(self, results: dict) -> dict:
        results = self._load(results)
        if self.ignored is not None and self.num_classes:
            self._check_file(results)
            self._check_shape(results)
            self._check_values(results)
        return results

    def read(self, results: dict) -> np.ndarray:
        """Load the labels of segmentation, without the image whose size they must have.

        Args:
            results (dict): An entry of the data set.

        Returns:
            np.ndarray: Labels, as training gets them.

        Raises:
            BadInputError: If they cannot be used.
        """
        results = self._load(results)
        self._check_values(results)
        return results['gt_seg_map']

    def _load(self, results: dict) -> dict:
        try:
            results = self.load(results)
            _restore_side(results)
            return results
        except AssertionError as error:  # mmseg's, of settings that contradict each other
            raise BadInputError(
                f'the pipeline loads no annotation ({error}): give the step and the data set the '
                'same settings.'
            ) from error
        except Exception as error:  # each decoder has its own
            raise BadInputError(
                f'{self._name(results)} cannot be read ({_describe(error)}): correct or restore '
                'the file.'
            ) from error

    def _name(self, results: dict) -> str:
        if results.get('seg_map_path'):
            return f'annotation {results["seg_map_path"]}'
        of = f'the annotation of image {results["img_path"]} (id {results.get("img_id")})'
        return f'{of} in {self.ann_file}'

    def _check_file(self, results: dict) -> None:
        with suppress(OSError):  # not on a disk, or of a format that Pillow does not know
            fault = _find_map_fault(results['seg_map_path'])
            if fault is not None:
                raise BadInputError(f'{self._name(results)} {fault}: correct or restore the file.')

    def _check_shape(self, results: dict) -> None:
        labels, shape = results['gt_seg_map'], tuple(results['ori_shape'][:2])
        if labels.shape != shape:
            raise BadInputError(
                f'{self._name(results)} has the shape {labels.shape}, but its image '
                f'{results["img_path"]} {shape}: restore the right pair of files.'
            )

    def _check_values(self, results: dict) -> None:
        labels = results['gt_seg_map']
        wrong = (labels >= self.num_classes) & (labels != self.ignored)
        if not wrong.any():
            return
        place = tuple(np.argwhere(wrong)[0].tolist())
        value = int(labels[place])
        shift = int(bool(results.get('reduce_zero_label')))  # the file counts from 1 then
        if shift and value == 255:
            raise BadInputError(
                f'reduce_zero_label makes 255 of label 0, and the data set of '
                f'{results["seg_map_path"]} has ignore_index={self.ignored}: set 255.'
            )
        raise BadInputError(
            f'{self._name(results)} has the value {value + shift} in row {place[0]}, column '
            f'{place[1]}, but the last of the {self.num_classes} classes has '
            f'{self.num_classes - 1 + shift}: correct the file or the classes of the data set, or, '
            f'for a label that is not to be learned, set ignore_index={value} in the data set, the '
            'heads and the metric, and seg_pad_val in the data_preprocessor.'
        )

    def __repr__(self) -> str:
        return repr(self.load)


def _restore_side(results: dict) -> None:
    """Give labels their side of one pixel back, which mmseg's loader squeezes away."""
    labels = results.get('gt_seg_map')
    if labels is not None and labels.ndim < 2:
        with Image.open(results['seg_map_path']) as image:
            results['gt_seg_map'] = labels.reshape(image.height, image.width)


def _find_map_fault(path: str) -> str | None:
    """What makes other labels of a map than its author drew, or None."""
    try:
        with Image.open(path) as image:
            image.verify()  # the checksums, which Pillow does not look at when it loads
    except SyntaxError as error:
        return f'is damaged ({error})'
    with Image.open(path) as image:
        if image.format in ('JPEG', 'MPO'):
            return 'is a JPEG, whose compression changes labels'
        if _orientation(image) != 1:
            return f'has the EXIF orientation {_orientation(image)}, which turns images, not labels'
        if image.mode in ('1', 'L', 'P'):  # up to 8 bits
            return None
        values = np.asarray(image)
    wrong = np.argwhere(values != values.astype(np.uint8))  # as the loader does
    if not len(wrong):
        return None
    place = tuple(wrong[0].tolist())
    return f'has the value {values[place]} in row {place[0]}, column {place[1]}, and labels 8 bits'


def _refuse_bomb(path: str) -> None:
    """Raise Pillow's DecompressionBombError for an image that would fill the memory."""
    with suppress(OSError, SyntaxError, ValueError), Image.open(path):  # which reads the head only
        pass


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8."""
    return image.getexif().get(ExifTag.Orientation, 1) if 'exif' in image.info else 1


def _other_size(results: dict, size: tuple[int, int]) -> str:
    path, (height, width) = results['img_path'], results['img'].shape[:2]
    turned = 1
    with suppress(OSError), Image.open(path) as image:
        turned = _orientation(image)
    if turned == 1:
        fix = 'restore the right pair of files'
    else:
        fix = (
            f'its EXIF orientation {turned} turns it; if the boxes are those of the stored pixels, '
            "set color_type='color_ignore_orientation' in LoadImageFromFile"
        )
    return (
        f'image {path} has {height} x {width} pixels, but its annotation (id '
        f'{results.get("img_id")}) is for {size[0]} x {size[1]}: {fix}.'
    )


def _describe(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0]}' if lines else type(error).__name__
