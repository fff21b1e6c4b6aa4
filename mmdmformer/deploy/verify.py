# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Comparing what was exported with what PyTorch computes, on noise and on photographs."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..analysis.benchmark import interleave
from ..analysis.pictures import read_image
from .networks import Network, RetinaBoxes

Run = Callable[[Tensor], Sequence[Tensor]]
MIN_SHARE = 0.99  # of the boxes or pixels whose class must be the same: rounding decides ties


class ExportError(RuntimeError):
    """An exported network that does not compute what it should."""


@dataclass(frozen=True)
class Comparison:
    """One comparison.

    Attributes:
        kind (str): ``'noise'`` or ``'photographs'``.
        shape (tuple[int, ...]): The input's shape.
        difference (float): The largest absolute difference of outputs.
        relative (float): The same, in units of the output's largest value
            where that is above 1.
        boxes (int | None): Number of boxes, if these are the output.
    """

    kind: str
    shape: tuple[int, ...]
    difference: float
    relative: float
    boxes: int | None = None

    def __str__(self) -> str:
        shape = 'x'.join(map(str, self.shape))
        boxes = '' if self.boxes is None else f' in {self.boxes} boxes'
        return f'{shape:<14} {self.kind:<12} largest difference {self.difference:.2g}{boxes}'


def compare(
    network: Network,
    run: Run,
    sizes: Sequence[tuple[int, int]],
    batches: Sequence[int],
    photographs: Sequence[Tensor] = (),
    tolerance: float = 1e-4,
) -> Iterator[Comparison]:
    """Compare an exported network with PyTorch's at all sizes and batches.

    Args:
        network (Network): The network of PyTorch.
        run (Callable): The exported one, from images to its outputs.
        sizes (Sequence[tuple[int, int]]): Heights and widths in pixels.
        batches (Sequence[int]): Numbers of images.
        photographs (Sequence[Tensor]): As of :func:`read_photographs`, whose
            default they have.
        tolerance (float): Largest relative difference. Defaults to 1e-4.

    Yields:
        Comparison: One for each size, batch, and kind of images.

    Raises:
        ExportError: If an output differs by more, or has another shape.
    """
    pictures = photographs or read_photographs()
    for height, width in sizes:
        for batch in batches:
            shape = (batch, 3, height, width)
            noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
            for kind, images in (('noise', noise), ('photographs', _fit(pictures, shape))):
                with torch.no_grad():
                    expected = _as_tuple(network(images))
                yield _compare(network, kind, shape, expected, run(images), tolerance)


def _compare(
    network: Network,
    kind: str,
    shape: tuple[int, ...],
    expected: Sequence[Tensor],
    actual: Sequence[Tensor],
    tolerance: float,
) -> Comparison:
    where = f'on {kind} of {"x".join(map(str, shape))}'
    count = len(expected[0]) if isinstance(network, RetinaBoxes) else None
    if count is not None:
        expected, actual = match_boxes(expected, actual, max(shape[2:]) / 100, where)
    difference = relative = 0.0
    for name, a, b in zip(network.output_names, expected, actual, strict=True):
        if a.shape != b.shape:
            raise ExportError(f'{name} {where} has shape {tuple(b.shape)}, not {tuple(a.shape)}.')
        if not a.is_floating_point():
            if a.numel() and (a == b).float().mean() < MIN_SHARE:
                raise ExportError(f'{name} {where} are others in more than 1 % of the places.')
        elif a.numel():
            largest = (a - b).abs().max().item()
            scaled = largest / max(1.0, a.abs().max().item())
            if not scaled <= tolerance:
                raise ExportError(
                    f'{name} {where} differ by {largest:.2g}, which is {scaled:.2g} of the largest '
                    f'value and more than the tolerance {tolerance:.2g}.'
                )
            difference, relative = max(difference, largest), max(relative, scaled)
    return Comparison(kind, shape, difference, relative, count)


def match_boxes(
    expected: Sequence[Tensor], actual: Sequence[Tensor], reach: float, where: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Bring boxes into the same order, and drop those that only one side has.

    Which of two equal boxes survives is up to rounding, and so is their order.

    Args:
        expected (Sequence[Tensor]): Boxes, scores, labels and images.
        actual (Sequence[Tensor]): The same of the other side.
        reach (float): How far the corners of equal boxes may be apart, in
            pixels.
        where (str): For an error.

    Returns:
        tuple[list[Tensor], list[Tensor]]: The boxes that both have.

    Raises:
        ExportError: If more than 1 % of the boxes have no partner.
    """
    same = (expected[2][:, None] == actual[2]) & (expected[3][:, None] == actual[3])
    distance = (expected[0][:, None] - actual[0]).abs().amax(-1)
    distance = distance + 100 * (expected[1][:, None] - actual[1]).abs()
    distance = distance.masked_fill(~same, torch.inf)
    if distance.numel() == 0:
        near = torch.zeros(len(expected[0]), dtype=torch.bool)
        partner = torch.zeros(len(expected[0]), dtype=torch.int64)
    else:
        near, partner = distance.min(1)
        near = near <= reach
    count = max(len(expected[0]), len(actual[0]))
    if near.sum() < MIN_SHARE * count:
        raise ExportError(f'only {int(near.sum())} of {count} boxes {where} are the same.')
    return [t[near] for t in expected], [t[partner[near]] for t in actual]


def read_photographs(files: Sequence[str] = ()) -> list[Tensor]:
    """Read images.

    Args:
        files (Sequence[str]): Image files; two photographs that scikit-learn
            brings along by default.

    Returns:
        list[Tensor]: RGB values from 0 to 255, each of shape (3, H, W).

    Raises:
        UsageError: If a file is missing.
        BadInputError: If it is no image that can be read.

    Examples:
        >>> [tuple(image.shape) for image in read_photographs()]
        [(3, 427, 640), (3, 427, 640)]
    """
    if files:
        arrays = [np.array(read_image(file)) for file in files]
    else:
        from sklearn.datasets import load_sample_images

        arrays = load_sample_images().images
    return [torch.tensor(array).permute(2, 0, 1).float() for array in arrays]


def _fit(pictures: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    batch, _, height, width = shape
    resized = [
        torch.nn.functional.interpolate(
            picture[None], (height, width), mode='bilinear', antialias=True
        )
        for picture in pictures
    ]
    return torch.cat([resized[i % len(resized)] for i in range(batch)])


def time_beside(network: Network, run: Run, shape: Sequence[int], repetitions: int) -> list[float]:
    """Time PyTorch's network and the exported one in turn.

    Args:
        network (Network): The network of PyTorch.
        run (Callable): The exported one.
        shape (Sequence[int]): The input's shape.
        repetitions (int): How often.

    Returns:
        list[float]: The medians in seconds.
    """
    images = torch.rand(*shape) * 255

    def infer() -> None:
        with torch.inference_mode():
            network(images)

    return [statistics.median(t) for t in interleave([infer, lambda: run(images)], repetitions)]


def _as_tuple(outputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
