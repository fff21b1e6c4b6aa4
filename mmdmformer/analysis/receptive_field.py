# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Effective receptive fields: how much each pixel of the input affects the center of a feature map.

The measure is that of `Understanding the Effective Receptive Field in Deep Convolutional Neural
Networks <https://arxiv.org/abs/1701.04128>`_: the gradient of the feature map's center with respect
to the input. Its absolute values are averaged over images and drawn on a logarithmic scale.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..checkpoints import find_backbones
from ..engine.model import without_init_log
from ..engine.runtime import UsageError
from .loaded_model import TASKS, UNTRAINED, load_model
from .pictures import read_image

SHARES = (0.5, 0.8, 0.99)  # of the field, within squares
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's, RGB
FLOOR = 1e-4  # of a field's largest value: what is smaller is drawn as nothing


@dataclass
class Field:
    """An effective receptive field.

    Attributes:
        title (str): What it is the field of.
        values (Tensor): Its values, of sum 1 and shape (side, side).
    """

    title: str
    values: Tensor

    @property
    def center(self) -> tuple[int, int]:
        """Row and column of the pixel nearest to its center of mass."""
        along = (self.values.sum(1), self.values.sum(0))
        row, column = (round((line * torch.arange(len(line))).sum().item()) for line in along)
        return row, column

    def square_side(self, share: float) -> int:
        """The side of the smallest square around the center that holds a share of the field.

        Args:
            share (float): From 0 to 1.

        Returns:
            int: The side in pixels, odd; a square may reach over the border.
        """
        row, column = self.center
        height, width = self.values.shape
        rows, columns = torch.arange(height) - row, torch.arange(width) - column
        distance = torch.maximum(rows.abs()[:, None], columns.abs()[None])
        held = torch.zeros(int(distance.max()) + 1, dtype=torch.float64)
        held.index_add_(0, distance.flatten(), self.values.double().flatten())
        # What is missing to 1 is rounding.
        return 2 * int((held.cumsum(0) >= share - 1e-9).nonzero()[0]) + 1


def build_backbone(spec: str, checkpoint: str = UNTRAINED) -> nn.Module:
    """Build a backbone.

    Args:
        spec (str): A config file, or the network's name in the registry with
            its arguments, as in ``DMFormer(arch='nano', mixer=dict(dilations=(1, 1, 1)))``.
        checkpoint (str): Checkpoint of the config's model, or ``'none'`` for
            initial weights, always the same. Defaults to 'none'.

    Returns:
        nn.Module: The backbone, in eval mode.

    Raises:
        UsageError: If there is no such backbone.
        CheckpointError: If the checkpoint does not fit.

    Examples:
        >>> build_backbone("DMFormer(arch='nano', mixer=dict(dilations=(1, 1, 1)))").out_channels
        (128,)
    """
    if spec.endswith('.py'):
        backbones = find_backbones(load_model(spec, checkpoint).model)
        if not backbones:
            raise UsageError(f'the model of {spec} has no backbone: give another config.')
        return next(iter(backbones.values()))
    if checkpoint != UNTRAINED:
        raise UsageError(f'{checkpoint} needs a config before it, not {spec}: give its config.')
    name, arguments = _parse_call(spec)
    torch.manual_seed(0)
    try:
        backbone = MODELS.build(dict(type=name, **arguments))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f'{spec} cannot be built: {" ".join(str(error.args[0]).split())}'
        ) from error
    with without_init_log():
        backbone.init_weights()
    backbone.eval()  # some networks return nothing from it
    return backbone


class _DictCalls(ast.NodeTransformer):
    """Writes ``dict(name=value)``, as configs have it, as a literal."""

    def visit_Call(self, node: ast.Call) -> ast.AST:  # noqa: N802
        self.generic_visit(node)
        if ast.unparse(node.func) != 'dict' or node.args:
            return node
        names: list[ast.expr | None] = [ast.Constant(word.arg) for word in node.keywords]
        return ast.Dict(names, [word.value for word in node.keywords])


def _parse_call(spec: str) -> tuple[str, dict]:
    try:
        node = ast.parse(spec, mode='eval').body
        if isinstance(node, ast.Name):
            return node.id, {}
        if not isinstance(node, ast.Call) or node.args:
            raise ValueError
        arguments = {
            word.arg: ast.literal_eval(_DictCalls().visit(word.value)) for word in node.keywords
        }
        name = ast.unparse(node.func)
        # mmengine would import whatever stands before the dot.
        if '.' in name and name.split('.')[0] not in TASKS:
            raise ValueError
        return name, arguments
    except (SyntaxError, ValueError) as error:
        raise UsageError(
            f'{spec} is neither a config, which ends in .py, nor a network with its arguments: '
            "write it as in DMFormer(arch='small') or mmpretrain.ResNet(depth=50)."
        ) from error


def measure_field(
    backbone: nn.Module,
    images: Iterable[Tensor],
    stage: int = -1,
    on_image: Callable[[], object] = lambda: None,
) -> Tensor:
    """Measure an effective receptive field.

    The gradient is that of a sum of the channels with random signs, new ones for each image: the
    plain sum of all channels is constant behind a layer norm.

    Args:
        backbone (nn.Module): A network that returns feature maps; in eval mode.
        images (Iterable[Tensor]): Inputs of shape (1, C, H, W), all of one size.
        stage (int): Which of the feature maps. Defaults to -1, the last.
        on_image (Callable): Called after each image.

    Returns:
        Tensor: The field, of shape (H, W), float64, its sum 1.

    Raises:
        UsageError: If there is no such feature map, or the input does not
            influence its center.
    """
    generator = torch.Generator().manual_seed(0)
    total: Tensor | float = 0.0
    for image in images:
        image = image.clone().requires_grad_()
        outputs = backbone(image)
        if not -len(outputs) <= stage < len(outputs) or outputs[stage].ndim != 4:
            shapes = [tuple(output.shape) for output in outputs]
            raise UsageError(
                f'--stage {stage} is no feature map of the outputs {shapes}: take another stage, '
                'or add out_indices to the backbone.'
            )
        feature = outputs[stage]
        center = feature[0, :, feature.shape[2] // 2, feature.shape[3] // 2]
        signs = torch.randint(0, 2, center.shape, generator=generator) * 2 - 1
        (gradient,) = torch.autograd.grad((center * signs).sum(), image)
        total = total + gradient[0].abs().sum(0).double()
        on_image()
    if not (isinstance(total, Tensor) and total.sum() > 0):
        raise UsageError('the input does not influence the center of the feature map.')
    return total / total.sum()


def noise_images(count: int, side: int, channels: int = 3) -> Iterable[Tensor]:
    """Yield images of normal noise, always the same.

    Args:
        count (int): How many.
        side (int): Height and width in pixels.
        channels (int): Channels of an image. Defaults to 3.

    Yields:
        Tensor: Of shape (1, channels, side, side), as normalized images are.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(1, channels, side, side, generator=generator)


def real_images(paths: Sequence[str | Path], side: int, channels: int = 3) -> Iterable[Tensor]:
    """Yield images from files, cut to a square around the center, scaled and normalized.

    Args:
        paths (Sequence[str | Path]): Image files.
        side (int): Height and width in pixels.
        channels (int): 3, or 1 for gray images. Defaults to 3.

    Yields:
        Tensor: Of shape (1, channels, side, side).

    Raises:
        UsageError: If the network takes another number of channels.
    """
    if channels not in (1, 3):
        raise UsageError(
            f'--images are RGB or gray, and the network takes {channels} channels: leave --images '
            'out, which takes noise.'
        )
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    for path in paths:
        image = read_image(path)
        short = min(image.size)
        left, top = ((length - short) // 2 for length in image.size)
        square = image.crop((left, top, left + short, top + short)).resize((side, side))
        pixels = (np.asarray(square, np.float32) - mean) / std
        inputs = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        yield inputs if channels == 3 else inputs.mean(1, keepdim=True)


def split_specs(words: Sequence[str]) -> list[tuple[str, str]]:
    """Pair each model on a command line with its checkpoint.

    Args:
        words (Sequence[str]): Configs, each perhaps with a checkpoint after
            it, and networks with their arguments.

    Returns:
        list[tuple[str, str]]: Models and checkpoints.

    Raises:
        UsageError: If a checkpoint stands first.

    Examples:
        >>> split_specs(['small.py', 'small.pth', "DMFormer(arch='nano')"])
        [('small.py', 'small.pth'), ("DMFormer(arch='nano')", 'none')]
    """
    pairs: list[tuple[str, str]] = []
    for word in words:
        if word != UNTRAINED and not word.endswith(('.pth', '.pt', '.safetensors')):
            pairs.append((word, UNTRAINED))
        elif pairs:
            pairs[-1] = (pairs[-1][0], word)
        else:
            raise UsageError(f'checkpoint {word} stands before any config: give its config first.')
    return pairs


def make_table(fields: Sequence[Field]) -> str:
    """Write the sides of the squares as a Markdown table.

    Args:
        fields (Sequence[Field]): The fields.

    Returns:
        str: A row for each field, with sides in pixels.
    """
    heads = [f'square of {share:.0%}' for share in SHARES]
    lines = [f'| network | {" | ".join(heads)} |', '| --- |' + ' ---: |' * len(SHARES)]
    for field in fields:
        sides = [str(field.square_side(share)) for share in SHARES]
        lines.append(f'| {field.title} | {" | ".join(sides)} |')
    return '\n'.join(lines)


def plot(fields: Sequence[Field], path: str | Path) -> None:
    """Draw fields side by side, each relative to its largest value, with its squares.

    Args:
        fields (Sequence[Field]): The fields, at least one.
        path (str | Path): File to write; directories are created.
    """
    columns = min(4, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.9, 3.9 * rows), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(fields) :]:
        axis.axis('off')
    for axis, field in zip(axes.flat, fields, strict=False):
        values = (field.values / field.values.max()).clamp(min=FLOOR)
        drawn = axis.imshow(values, norm=LogNorm(FLOOR, 1), cmap='magma')
        row, column = field.center
        for share, style in zip(SHARES, ('-', '--', ':'), strict=True):
            side = field.square_side(share)
            corner = (column - side / 2, row - side / 2)
            axis.add_patch(Rectangle(corner, side, side, fill=False, color='white', ls=style))
        sides = ', '.join(str(field.square_side(share)) for share in SHARES)
        axis.set_title(textwrap.fill(field.title, 38), fontsize='medium')
        axis.set_xlabel(f'{", ".join(f"{share:.0%}" for share in SHARES)}: {sides} px')
        axis.set_xlim(-0.5, values.shape[1] - 0.5)
        axis.set_ylim(values.shape[0] - 0.5, -0.5)
    label = 'absolute gradient, relative to the largest'
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
