# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Class activation maps: the regions of an image that cause the output of a model.

The maps are computed by the library pytorch_grad_cam (package ``grad-cam``). What is added here is
what it explains: a class of a classifier, a box of a detector, a pixel or a region of a segmentor;
and from which layer, as each backbone lays out its features in its own way.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from ..checkpoints import find_backbones
from ..engine.runtime import UsageError, check_checkpoint
from .cam_targets import KINDS, Request, Target
from .loaded_model import UNTRAINED, LoadedModel, prepare_image

# The methods of the library that need one pass backward and explain a target.
METHODS = {
    'gradcam': 'GradCAM',
    'gradcam++': 'GradCAMPlusPlus',
    'layercam': 'LayerCAM',
    'hirescam': 'HiResCAM',
    'xgradcam': 'XGradCAM',
    'eigengradcam': 'EigenGradCAM',
    'elementwise': 'GradCAMElementWise',
}
FIRST_NORMS = ('norm1', 'ln1')  # of a transformer's block, by their usual names


@dataclass
class ActivationMap:
    """A map and what it was drawn from.

    Attributes:
        view (np.ndarray): What the model sees of the image, of shape
            (H, W, 3), RGB from 0 to 1.
        values (np.ndarray): The map from 0 to 1, of shape (H, W); all zero if
            there is nothing to explain.
        target (Target): What it explains.
        layer (str): Name of the layer it is taken from.
    """

    view: np.ndarray
    values: np.ndarray
    target: Target
    layer: str


def split_arguments(paths: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Tell images, configs and checkpoints on a command line apart.

    Args:
        paths (Sequence[str]): Images, then pairs of a config, which ends in
            .py, and a checkpoint.

    Returns:
        tuple: The images, and the pairs.

    Raises:
        UsageError: If they are not in this order.

    Examples:
        >>> split_arguments(['a.png', 'b.png', 'small.py', 'none'])
        (['a.png', 'b.png'], [('small.py', 'none')])
    """
    first = next((i for i, path in enumerate(paths) if path.endswith('.py')), len(paths))
    images, rest = list(paths[:first]), list(paths[first:])
    pairs = list(zip(rest[::2], rest[1::2], strict=False))
    wrong = [c for c, checkpoint in pairs if not c.endswith('.py') or checkpoint.endswith('.py')]
    if not images or not pairs or wrong or len(rest) % 2:
        where = f' near {wrong[0]}' if wrong else ''
        raise UsageError(
            f'the arguments{where} are not IMAGE... CONFIG CHECKPOINT [CONFIG CHECKPOINT ...]: '
            'give at least one image, then for each model a config, which ends in .py, and its '
            f'checkpoint (or {UNTRAINED}).'
        )
    for _, checkpoint in pairs:
        if checkpoint != UNTRAINED:
            check_checkpoint(checkpoint)
    return images, pairs


def explain(
    loaded: LoadedModel,
    image: str | Path,
    request: Request = Request(),  # noqa: B008  (frozen)
    layer: str | None = None,
    method: str = 'gradcam',
) -> ActivationMap:
    """Compute the class activation map of a model for an image.

    Args:
        loaded (LoadedModel): The model; all of its parameters come to require
            gradients.
        image (str | Path): Image file.
        request (Request): What to explain. Defaults to what is predicted.
        layer (str, optional): Name of the layer whose output is weighed. None
            takes the last one of the backbone that has a map of the image, or,
            where the head reads a class token alone, the norm before the last
            attention, behind which the map has no influence. Defaults to None.
        method (str): Key of ``METHODS``. Defaults to 'gradcam'.

    Returns:
        ActivationMap: The map.

    Raises:
        UsageError: If the library is missing, a request cannot be met, or the
            layer is unknown or has no map of the image.
        BadInputError: If the image cannot be read.
    """
    algorithm = _find_method(method)
    view, inputs, samples = prepare_image(loaded, image)
    explained = KINDS[loaded.task](loaded)
    explained.samples = samples
    with torch.enable_grad():
        recorder = _Recorder(loaded.model)
        (scores,) = recorder.run(lambda: explained(inputs))
        image_size = inputs.shape[2], inputs.shape[3]
        name = layer or recorder.default_layer(image_size)
        module = _find_layer(loaded.model, name)
        recorder.check(name, image_size)
        target = explained.choose(scores.detach(), request)
        height, width = view.shape[:2]
        if target is None:
            nothing = Target('nothing found', torch.sum)
            return ActivationMap(view, np.zeros((height, width), np.float32), nothing, name)
        as_map = partial(to_map, image_size=image_size)
        cam = algorithm(explained, [module], reshape_transform=as_map)
        (values,) = cam(inputs, [target.score])
        cam.activations_and_grads.release()
    return ActivationMap(view, values[:height, :width], target, name)


def _find_method(method: str) -> type:
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise UsageError(
            f'class activation maps need the package grad-cam ({error}): install it with `pip '
            'install -r requirements/optional.txt`.'
        ) from error
    if method not in METHODS:
        raise UsageError(f'the method {method} is unknown: choose one of {", ".join(METHODS)}.')
    return getattr(pytorch_grad_cam, METHODS[method])


def _find_layer(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules or not name:
        close = difflib.get_close_matches(name, modules, n=3, cutoff=0.4)
        hint = f'the nearest names are {", ".join(close)}' if close else 'it begins with backbone.'
        raise UsageError(f'the model has no layer named {name}: {hint}.')
    return modules[name]


class _Recorder:
    """Which layers of a model ran, in which order, and what they gave."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.outputs: dict[str, torch.Size | type] = {}  # the type of what is no tensor

    def run(self, forward: Callable[[], Tensor]) -> Tensor:
        handles = [
            module.register_forward_hook(partial(self._record, name))
            for name, module in self.model.named_modules()
        ]
        try:
            return forward()
        finally:
            for handle in handles:
                handle.remove()

    def _record(self, name: str, module: nn.Module, args: tuple, output: object) -> None:
        self.outputs.pop(name, None)  # the last call counts, also for the order
        self.outputs[name] = output.shape if isinstance(output, Tensor) else type(output)

    def default_layer(self, image_size: tuple[int, int]) -> str:
        backbones = find_backbones(self.model)
        prefixes = tuple(f'{name}.' for name in backbones)
        in_backbone = [n for n in self.outputs if n.startswith(prefixes)]
        grids = {n: grid for n in in_backbone if (grid := self._grid(n, image_size)) is not None}
        if not grids:
            raise UsageError(
                'no layer of the backbone has a map of the image: give one by --layer.'
            )
        maps = list(grids)
        _, _, extra = grids[maps[-1]]
        if extra and any(
            _reads_class_token(backbone)
            for name, backbone in backbones.items()
            if maps[-1].startswith(f'{name}.')
        ):
            norms = [n for n in maps if n.count('.') > 1 and n.split('.')[-1] in FIRST_NORMS]
            return (norms or maps)[-1]
        return maps[-1]

    def check(self, name: str, image_size: tuple[int, int]) -> None:
        """Raise a UsageError unless the layer ran and gave a map."""
        if self._grid(name, image_size) is None:
            found = self.outputs.get(name)
            if found is None:
                what = 'does not run by itself'
            elif isinstance(found, type):
                what = f'gives a {found.__name__}'
            else:
                what = f'gives a tensor of shape {tuple(found)}'
            raise UsageError(
                f'layer {name} {what}, not a map of the image: take one like '
                f'{self.default_layer(image_size)}.'
            )

    def _grid(self, name: str, image_size: tuple[int, int]) -> tuple[int, int, int] | None:
        shape = self.outputs.get(name)
        return find_grid(shape, image_size) if isinstance(shape, torch.Size) else None


def _reads_class_token(backbone: nn.Module) -> bool:
    return getattr(backbone, 'cls_token', None) is True or (
        getattr(backbone, 'out_type', None) == 'cls_token'
    )


def find_grid(shape: Sequence[int], image_size: tuple[int, int]) -> tuple[int, int, int] | None:
    """Find how a feature is laid out over the image.

    Args:
        shape (Sequence[int]): (1, C, h, w) or (1, h, w, C) of a map, or
            (1, N, C) of tokens, row by row, perhaps after a class token.
        image_size (tuple[int, int]): Height and width of the model's input, in
            pixels.

    Returns:
        tuple[int, int, int]: Height and width of the map, and the number of
        tokens before it; None if there is no map of more than one pixel.

    Examples:
        >>> find_grid((1, 197, 768), (224, 224))
        (14, 14, 1)
        >>> find_grid((1, 512, 7, 7), (224, 224))
        (7, 7, 0)
        >>> find_grid((1, 10), (224, 224)) is None
        True
    """
    if len(shape) not in (3, 4) or shape[0] != 1:
        return None
    for height, width in _possible_grids(image_size):
        if len(shape) == 4 and (height, width) in (tuple(shape[2:]), tuple(shape[1:3])):
            return height, width, 0
        if len(shape) == 3 and shape[1] - height * width in (0, 1):
            return height, width, shape[1] - height * width
    return None


def _possible_grids(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes of a map, whether borders are padded or left out; strides of powers of 2 come first."""
    strides = sorted(range(1, max(image_size) + 1), key=lambda stride: stride.bit_count() > 1)
    grids = []
    for stride in strides:
        for rounded in (math.ceil, math.floor):
            height, width = (rounded(side / stride) for side in image_size)
            if height * width > 1:
                grids.append((height, width))
    return grids


def to_map(feature: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Bring a feature into the layout that the library wants.

    Args:
        feature (Tensor): Of a shape of :func:`find_grid`.
        image_size (tuple[int, int]): Height and width of the model's input.

    Returns:
        Tensor: Of shape (1, C, h, w); a copy, as a later layer may change the
        feature in place.

    Raises:
        ValueError: If it is no map of the image.
    """
    grid = find_grid(feature.shape, image_size)
    if grid is None:
        raise ValueError(f'a feature of shape {tuple(feature.shape)} is no map of the image.')
    height, width, extra = grid
    if feature.ndim == 3:
        feature = feature[:, extra:].transpose(1, 2).unflatten(2, (height, width))
    elif tuple(feature.shape[2:]) != (height, width):
        feature = feature.permute(0, 3, 1, 2)
    return feature.clone()


def draw(result: ActivationMap, height: int = 224) -> Image.Image:
    """Lay a map over what the model saw, and mark the box or the pixel.

    Args:
        result (ActivationMap): The map.
        height (int): Height of the image in pixels. Defaults to 224.

    Returns:
        Image.Image: The figure.
    """
    from pytorch_grad_cam.utils.image import show_cam_on_image

    pixels = (
        show_cam_on_image(result.view, result.values, use_rgb=True)
        if result.values.any()
        else (result.view * 255).astype(np.uint8)
    )
    scale = height / len(pixels)
    picture = Image.fromarray(pixels).resize((round(pixels.shape[1] * scale), height))
    marks = ImageDraw.Draw(picture)
    if result.target.box is not None:
        marks.rectangle([side * scale for side in result.target.box], outline='white', width=2)
    if result.target.point is not None:
        x, y = (p * side for p, side in zip(result.target.point, picture.size, strict=True))
        marks.ellipse((x - 5, y - 5, x + 5, y + 5), outline='white', width=2)
    return picture
