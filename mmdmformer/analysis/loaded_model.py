# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Loading of trained models for analysis, and of images by their test pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed
from torch import Tensor

from ..checkpoints import input_channels, load_complete, predicting_model
from ..datasets.bad_input import BadInputError
from ..engine.model import build_model, toolbox_of, without_init_log
from ..engine.runtime import UsageError, check_checkpoint, read_config_file
from .pictures import read_image

UNTRAINED = 'none'  # in place of a checkpoint
TASKS = {'mmpretrain': 'classification', 'mmdet': 'detection', 'mmseg': 'segmentation'}


@dataclass
class LoadedModel:
    """A model with what is needed to show it images.

    Attributes:
        name (str): Name of the config, without folder and ending.
        cfg (Config): The config.
        model (BaseModel): The model, in eval mode and on the CPU.
        classes (list[str]): Names of the classes; empty if unknown.
        task (str): ``'classification'``, ``'detection'`` or
            ``'segmentation'``.
    """

    name: str
    cfg: Config
    model: BaseModel
    classes: list[str]
    task: str


def load_model(
    config: str | Path, checkpoint: str, options: dict[str, Any] | None = None
) -> LoadedModel:
    """Build a config's model and load all of its weights from a checkpoint, running no code in it.

    Args:
        config (str | Path): Config file of a classifier, detector or segmentor.
        checkpoint (str): File or URL; ``'none'`` gives initial weights, always
            the same.
        options (dict, optional): Settings of the config to change.
            Defaults to None.

    Returns:
        LoadedModel: The model.

    Raises:
        UsageError: If a file is missing, or the config is of another kind.
        CheckpointError: If the checkpoint cannot be read or does not fit.
    """
    if checkpoint != UNTRAINED:
        check_checkpoint(checkpoint)
    cfg = read_config_file(Path(config), options)
    task = TASKS.get(toolbox_of(cfg) or '')
    if task is None or 'model' not in cfg:
        raise UsageError(
            f'config {config} describes no model of {", ".join(TASKS)}: take one that does.'
        )
    set_random_seed(0)
    model = build_model(cfg)
    meta = {}
    if checkpoint == UNTRAINED:
        with without_init_log():
            model.init_weights()
    else:
        meta = load_complete(model, checkpoint).get('meta', {})
    model = predicting_model(model)
    model.eval()
    return LoadedModel(Path(config).stem, cfg, model, class_names(cfg, meta), task)


def class_names(cfg: Config, meta: Mapping[str, Any]) -> list[str]:
    """Find the names of a model's classes.

    Args:
        cfg (Config): Config of the model.
        meta (Mapping): The ``meta`` of its checkpoint, which goes before the config.

    Returns:
        list[str]: The names; empty if neither has any.
    """
    known = {key.lower(): value for key, value in meta.get('dataset_meta', {}).items()}
    in_config = _test_dataset(cfg).get('metainfo', {}).get('classes')
    return list(known.get('classes') or meta.get('CLASSES') or in_config or ())


def prepare_image(loaded: LoadedModel, path: str | Path) -> tuple[np.ndarray, Tensor, list]:
    """Prepare an image as the model's test pipeline does.

    Args:
        loaded (LoadedModel): The model.
        path (str | Path): Image file.

    Returns:
        tuple: What the model sees of the image, of shape (H, W, 3), RGB from
        0 to 1 (gray, or the first three channels, of what is not RGB); the
        model's input, of shape (1, C, H', W'), where padding may have been added
        to the right and below; its data samples.

    Raises:
        UsageError: If there is no such file, or the config has no test pipeline.
        BadInputError: If it cannot be decoded.
    """
    if input_channels(loaded.model) == 3:
        read_image(path)  # says what is wrong with it
    else:
        load_image(loaded.cfg, path)
    steps = image_steps(loaded.cfg)
    with DefaultScope.overwrite_default_scope(toolbox_of(loaded.cfg)):
        data = Compose(steps)(dict(img_path=str(path), img_id=0))
    with torch.no_grad():
        batch = loaded.model.data_preprocessor(pseudo_collate([data]))
    return _as_rgb(data['inputs']), batch['inputs'], batch['data_samples']


def _as_rgb(inputs: Tensor) -> np.ndarray:
    """What was loaded, gray or from BGR on, to look at: of shape (H, W, 3), from 0 to 1."""
    bgr = inputs[:3] if len(inputs) >= 3 else inputs[:1].expand(3, -1, -1)
    return bgr.flip(0).permute(1, 2, 0).numpy() / np.float32(255)


def load_image(cfg: Config, path: str | Path) -> np.ndarray:
    """Load an image of any number of channels, as a model's test pipeline does.

    Args:
        cfg (Config): Config of the model.
        path (str | Path): Image file.

    Returns:
        np.ndarray: Of shape (H, W) or (H, W, C).

    Raises:
        UsageError: If there is no such file, or the config has no test pipeline.
        BadInputError: If it cannot be decoded.
    """
    if not Path(path).is_file():
        raise UsageError(f'image {path} does not exist: check the path.')
    steps = image_steps(cfg)[:1]
    try:
        with DefaultScope.overwrite_default_scope(toolbox_of(cfg)):
            return Compose(steps)(dict(img_path=str(path), img_id=0))['img']
    except Exception as error:  # each decoder has its own
        raise BadInputError(f'image {path} cannot be read ({error}): restore the file.') from error


def image_steps(cfg: Config) -> list[dict]:
    """The transforms of a config's test pipeline that need no annotation, or a UsageError."""
    pipeline = _test_dataset(cfg).get('pipeline')
    if pipeline is None:
        raise UsageError(f'config {cfg.filename} has no test pipeline to prepare images: add it.')
    return [s for s in pipeline if 'Annotations' not in str(s['type'])]


def _test_dataset(cfg: Config) -> dict:
    dataset = (cfg.get('test_dataloader') or {}).get('dataset', {})
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset
