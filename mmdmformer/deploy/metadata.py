# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What an exported file says of itself: all that it takes from a picture to the answer."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import TRANSFORMS, DefaultScope

from ..analysis.loaded_model import TASKS, image_steps
from ..engine.model import toolbox_of
from .networks import Network

# What each transform does to an image, by the names of its arguments
_SETTINGS = {
    'LoadImageFromFile': ('color_type', 'imdecode_backend'),
    'Resize': ('scale', 'keep_ratio', 'interpolation', 'backend'),
    'ResizeEdge': ('scale', 'edge', 'interpolation', 'backend'),
    'ResizeToMultiple': ('size_divisor', 'interpolation'),
    'CenterCrop': ('crop_size',),
}
_OPENCV = dict(interpolation='bilinear', backend='cv2')  # where a transform leaves it open


def describe(cfg: Config, network: Network) -> dict[str, Any]:
    """Describe the way from a picture to the answer.

    Args:
        cfg (Config): Config of the model.
        network (Network): What is exported.

    Returns:
        dict: What JSON can express. docs/deployment.md explains each key.
    """
    rgb = network.in_channels == 3
    values = 'RGB values' if rgb else 'values as the pipeline loads them,'
    shape = f'(batch, {network.in_channels}, height, width)'
    about = dict(
        task=TASKS[toolbox_of(cfg) or ''],
        inputs=dict(images=f'{values} from 0 to 255, float32, of shape {shape}'),
        color_order='RGB' if rgb else 'as loaded',
        value_range=[0, 255],
        pipeline=describe_pipeline(cfg),
        **network.describe(),
    )
    if 'sizes' in network.input_names:
        about['inputs']['sizes'] = (
            'height and width of each picture within the batch, to which its boxes are clipped, '
            'int64, of shape (batch, 2); where it may be left out, pictures fill the batch then'
        )
    return about if network.classes is None else dict(about, classes=list(network.classes))


def describe_pipeline(cfg: Config) -> list[dict[str, Any]]:
    """List what the config's test pipeline does to an image, its defaults included.

    Args:
        cfg (Config): Config of the model.

    Returns:
        list[dict]: Type and settings of each transform. Of one that is not
        known here the type alone.
    """
    steps = []
    with DefaultScope.overwrite_default_scope(toolbox_of(cfg)):
        for step in image_steps(cfg):
            name = str(step['type']).split('.')[-1]
            if not name.startswith('Pack'):
                steps.append(_describe_step(name, step))
    return steps


def _describe_step(name: str, step: dict[str, Any]) -> dict[str, Any]:
    transform = TRANSFORMS.build(step) if name in _SETTINGS else None
    settings = {key: getattr(transform, key) for key in _SETTINGS.get(name, ())}
    if 'Resize' in name:
        settings |= {key: settings.get(key) or value for key, value in _OPENCV.items()}
    if settings.get('scale', 0) is None:  # by factors instead
        settings = {}
    return dict(type=name, **settings)


def as_texts(about: Mapping[str, Any]) -> dict[str, str]:
    """Express a description as texts, for files that hold nothing else.

    Args:
        about (Mapping): Texts, or what JSON can express.

    Returns:
        dict[str, str]: Texts as they are, everything else as JSON.

    Examples:
        >>> as_texts(dict(task='detection', classes=['a']))
        {'task': 'detection', 'classes': '["a"]'}
    """
    return {key: v if isinstance(v, str) else json.dumps(v) for key, v in about.items()}


def one_at_a_time(about: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Say that a file takes one picture at a time, and in which precision it was compared.

    Args:
        about (Mapping): Of :func:`describe`.
        precision (str): The precision.

    Returns:
        dict: The description of such a file.

    Examples:
        >>> one_at_a_time(dict(task='segmentation', padding=dict(several_sizes=True)), 'f32')
        {'task': 'segmentation', 'padding': {'several_sizes': False}, 'precision': 'f32'}
    """
    described = dict(copy.deepcopy(dict(about)), precision=precision)
    described.get('padding', {})['several_sizes'] = False
    return described


def notes(about: dict[str, Any]) -> list[str]:
    """Say what whoever uses a file must do beside what demo/onnx_demo.py does.

    Args:
        about (dict): Of :func:`describe`.

    Returns:
        list[str]: Sentences.
    """
    unknown = [step['type'] for step in about['pipeline'] if len(step) == 1]
    sentences = [
        f'the file does not say what {name} of the test pipeline does: repeat it with each picture.'
        for name in unknown
    ]
    if about.get('align_corners'):
        sentences.append('logits are scaled to the picture with aligned corners.')
    if about.get('thresholds', {}).get('min_bbox_size', -1) > 0:
        sentences.append('min_bbox_size counts pixels of the input here, of the picture in mmdet.')
    return sentences
