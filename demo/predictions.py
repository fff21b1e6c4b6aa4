# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Predictions for images and videos through the toolboxes' own inferencers."""

from __future__ import annotations

import glob
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from PIL import Image

from mmdmformer.analysis.loaded_model import TASKS
from mmdmformer.analysis.pictures import read_image
from mmdmformer.checkpoints import load_complete
from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.engine.model import toolbox_of
from mmdmformer.engine.runtime import UsageError, check_checkpoint, read_config_file

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
VIDEO_SUFFIXES = ('.avi', '.mkv', '.mov', '.mp4', '.webm')
MIN_SIDE = 224  # pixels; smaller classified images are enlarged, as their text would cover them


@dataclass
class Prediction:
    """What a model says of an image.

    Attributes:
        label (str): In words.
        picture (Image.Image): Drawn into the image.
    """

    label: str
    picture: Image.Image


class Predictor:
    """The inferencer of a config's toolbox, with all weights loaded from a checkpoint.

    Args:
        config (str | Path): Config file of a classifier, detector or segmentor.
        checkpoint (str): File or URL.
        device (str, optional): Such as ``'cpu'``. Defaults to None, a GPU if
            there is one.
        score_threshold (float): Least score of a box that is drawn and
            counted. Defaults to 0.3.
        options (dict, optional): Settings of the config to change.
            Defaults to None.

    Raises:
        UsageError: If a file is missing, or the config is of another kind.
        CheckpointError: If the checkpoint cannot be read or does not fit.
    """

    def __init__(
        self,
        config: str | Path,
        checkpoint: str,
        device: str | None = None,
        score_threshold: float = 0.3,
        options: dict[str, Any] | None = None,
    ) -> None:
        check_checkpoint(checkpoint)
        cfg = read_config_file(Path(config), options)
        self.task = TASKS.get(toolbox_of(cfg))
        if self.task is None:
            raise UsageError(
                f'config {config} is none of {", ".join(TASKS)}: take one whose default_scope is.'
            )
        self.score_threshold = score_threshold
        build = {
            'classification': _build_classification,
            'detection': _build_detection,
            'segmentation': _build_segmentation,
        }[self.task]
        # The inferencers leave out what does not fit, with no more than a line in the log.
        self.inferencer = build(cfg, checkpoint, device)
        load_complete(self.inferencer.model, checkpoint)

    def __call__(self, path: str | Path) -> Prediction:
        """Predict for an image.

        Args:
            path (str | Path): Image file.

        Returns:
            Prediction: The prediction.

        Raises:
            UsageError: If there is no such file.
            BadInputError: If it cannot be decoded.
        """
        image = read_image(path)  # says what is wrong with it
        return getattr(self, f'_predict_{self.task}')(str(path), image.size)

    def _predict_classification(self, path: str, size: tuple[int, int]) -> Prediction:
        # It draws only what it also writes.
        with tempfile.TemporaryDirectory() as folder:
            side = max(MIN_SIDE, *size) if min(size) < MIN_SIDE else min(size)
            (result,) = self.inferencer(path, show_dir=folder, resize=side)
        name = result.get('pred_class', f'class {result["pred_label"]}')
        picture = Image.fromarray(self.inferencer.visualizer.get_image())
        return Prediction(f'{name} {result["pred_score"]:.1%}', picture)

    def _predict_detection(self, path: str, size: tuple[int, int]) -> Prediction:
        result = self.inferencer(
            path, return_vis=True, no_save_vis=True, pred_score_thr=self.score_threshold
        )
        (found,), (drawn,) = result['predictions'], result['visualization']
        kept = [
            self._class_name(label)
            for label, score in zip(found['labels'], found['scores'], strict=True)
            if score >= self.score_threshold
        ]
        counts = [f'{count} {name}' for name, count in Counter(kept).most_common()]
        return Prediction(', '.join(counts) or 'nothing found', Image.fromarray(drawn))

    def _predict_segmentation(self, path: str, size: tuple[int, int]) -> Prediction:
        result = self.inferencer(path, return_vis=True)
        labels, counts = np.unique(result['predictions'], return_counts=True)
        shares = [
            f'{self._class_name(int(labels[i]))} {counts[i] / counts.sum():.1%}'
            for i in np.argsort(-counts)
        ]
        return Prediction(', '.join(shares), Image.fromarray(result['visualization']))

    def _class_name(self, label: int) -> str:
        classes = self.inferencer.model.dataset_meta.get('classes') or ()
        return classes[label] if label < len(classes) else f'class {label}'


def _build_classification(cfg: Config, checkpoint: str, device: str | None) -> Any:
    from mmengine.dataset import Compose, default_collate
    from mmpretrain import ImageClassificationInferencer
    from mmpretrain.registry import TRANSFORMS
    from mmpretrain.utils import progress

    class Inferencer(ImageClassificationInferencer):
        """Reads images as the config says, where mmpretrain 1.2 always reads three channels."""

        def _init_pipeline(self, cfg):
            steps = cfg.test_dataloader.dataset.pipeline
            return Compose([TRANSFORMS.build(step) for step in steps])

        def preprocess(self, inputs, batch_size=1):
            data = (self.pipeline(dict(img_path=path)) for path in inputs)
            yield from map(default_collate, self._get_chunk_data(data, batch_size))

    progress.disable_progress_bar = True  # there would be a bar for each image
    return Inferencer(cfg, pretrained=checkpoint, device=device)


def _build_detection(cfg: Config, checkpoint: str, device: str | None) -> Any:
    from mmdet.apis import DetInferencer

    return DetInferencer(cfg, weights=checkpoint, device=device, show_progress=False)


def _build_segmentation(cfg: Config, checkpoint: str, device: str | None) -> Any:
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(cfg, weights=checkpoint, device=device)
    inferencer.show_progress = False  # no argument of the official one
    return inferencer


def find_images(where: str) -> list[tuple[Path, Path]]:
    """Find the images that an argument names.

    Args:
        where (str): An image, a folder, whose images are found at any depth,
            or a glob (``**`` stands for any depth).

    Returns:
        list[tuple[Path, Path]]: Each image, and its name below what all of
        them share; sorted.

    Raises:
        UsageError: If there is none.
    """
    path = Path(where)
    if path.is_file():
        return [(path, Path(path.name))]
    if path.is_dir():
        candidates, root = list(_files_below(path)), path
    else:
        candidates = [Path(name) for name in glob.glob(where, recursive=True)]
        root = Path(os.path.commonpath([p.parent for p in candidates])) if candidates else path
    found = sorted(p for p in candidates if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise UsageError(
            f'{where} names no image: give an image ({", ".join(IMAGE_SUFFIXES)}), a folder, a '
            f'glob in quotation marks, or a video ({", ".join(VIDEO_SUFFIXES)}).'
        )
    return [(p, p.relative_to(root)) for p in found]


def _files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder at any depth, also in folders that are linked there."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if os.path.realpath(Path(here, name)) not in seen]
        seen |= {os.path.realpath(Path(here, name)) for name in [*folders, '.']}
        yield from (Path(here, name) for name in files)


def is_video(where: str) -> bool:
    """Whether an argument names a video."""
    return Path(where).suffix.lower() in VIDEO_SUFFIXES and Path(where).is_file()


class Video:
    """The frames of a video, as image files for the time that they are looked at.

    Args:
        path (str | Path): The video.
        every (int): Take every so many frames. Defaults to 1.

    Raises:
        BadInputError: If it cannot be decoded.
    """

    def __init__(self, path: str | Path, every: int = 1) -> None:
        self.path, self.every = Path(path), every
        self.capture = cv2.VideoCapture(str(path))
        self.fps = self.capture.get(cv2.CAP_PROP_FPS) / every
        frames = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if not self.capture.isOpened() or frames <= 0:
            raise BadInputError(f'video {path} cannot be read: restore or convert the file.')
        self.count = -(-frames // every)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Path, Path]]:
        """Yield each frame's file, which is gone after the next, and its name."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, 'frame.png')
            number = 0
            while True:
                read, frame = self.capture.read()
                if not read:
                    break
                if number % self.every == 0:
                    cv2.imwrite(str(path), frame)
                    yield path, Path(f'{self.path.stem}_{number:06d}.png')
                number += 1
        self.capture.release()


class Output:
    """Where drawings go: files of their images' names, or the frames of one video.

    Args:
        folder (str | Path): Folder to write to; made with the first drawing.
        video (Video, optional): The video that the drawings are frames of.
            Defaults to None.
    """

    def __init__(self, folder: str | Path, video: Video | None = None) -> None:
        self.where = Path(folder)
        self.count = 0
        self.fps, self.writer = None, None
        if video is not None:
            self.where, self.fps = self.where / f'{video.path.stem}.mp4', video.fps

    def add(self, source: Path, name: Path, picture: Image.Image) -> None:
        """Write a drawing.

        Args:
            source (Path): Its image.
            name (Path): Its name below the folder.
            picture (Image.Image): The drawing.

        Raises:
            UsageError: If it would replace its image.
        """
        self.count += 1
        if self.fps is not None:
            self._add_frame(picture)
            return
        target = self.where / name
        if target.resolve() == source.resolve():
            raise UsageError(
                f'the drawing would replace its image {source}: choose another --out-dir.'
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        picture.save(target)

    def _add_frame(self, picture: Image.Image) -> None:
        if self.writer is None:
            self.where.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter_fourcc(*'mp4v')
            self.writer = cv2.VideoWriter(str(self.where), code, self.fps, picture.size)
        self.writer.write(np.asarray(picture)[..., ::-1].copy())

    def close(self) -> None:
        """Write what is left of a video."""
        if self.writer is not None:
            self.writer.release()
