# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""How learning rates must run over whole trainings on 8 GPUs, as formulas."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

IMAGENET_EPOCH, COCO_EPOCH = 1252, 7330  # iterations, with batches of 1024 and 16 images


@dataclass(frozen=True)
class Course:
    """A learning rate in every iteration of a training.

    Attributes:
        rate (Callable[[np.ndarray], np.ndarray]): From iterations, counted from 0, to rates.
        totals (tuple): Images, images in a step, iterations in an epoch, iterations.
        events (dict[int, str]): What happens in which iteration, counted from 1.
    """

    rate: Callable[[np.ndarray], np.ndarray]
    totals: tuple[int, int, float, int]
    events: dict[int, str]


def _warm_up_and_cosine(lr: float, first: float, last: float, warm_up: int, end: int) -> Callable:
    def rate(i: np.ndarray) -> np.ndarray:
        rising = first + (lr - first) * i / (warm_up - 1)
        falling = last + (lr - last) * (1 + np.cos(np.pi * (i - warm_up) / (end - warm_up))) / 2
        return np.where(i < warm_up, rising, falling)

    return rate


def imagenet(
    epochs: int,
    warm_up: int,
    lr: float,
    first: float,
    last: float,
    epoch: int = IMAGENET_EPOCH,
    batch: int = 1024,
) -> Course:
    """Up from ``first`` to ``lr`` in ``warm_up`` epochs, then a cosine to ``last``."""
    end, top = epochs * epoch, warm_up * epoch
    return Course(
        _warm_up_and_cosine(lr, first, last, top, end),
        (1_281_167, batch, epoch, end),
        {1: 'start', top: 'end of warm-up', end // 2: 'middle', end: 'last'},
    )


def cosine(epochs: int, lr: float, epoch: int, batch: int) -> Course:
    """A cosine from ``lr`` to 0, which falls after each epoch."""
    end = epochs * epoch
    return Course(
        lambda i: lr * (1 + np.cos(np.pi * (i // epoch) / epochs)) / 2,
        (1_281_167, batch, epoch, end),
        {1: 'start', end // 2: 'middle', end: 'last'},
    )


def coco(epochs: int, milestones: tuple[int, int], lr: float) -> Course:
    """500 iterations up from a thousandth, and a tenth after each milestone."""

    def rate(i: np.ndarray) -> np.ndarray:
        warm_up = np.minimum(1, 1e-3 + (1 - 1e-3) * i / 499)
        drops = sum((i >= milestone * COCO_EPOCH).astype(int) for milestone in milestones)
        return lr * warm_up * 0.1**drops

    end = epochs * COCO_EPOCH
    events = {milestone * COCO_EPOCH + 1: 'milestone' for milestone in milestones}
    events |= {1: 'start', 500: 'end of warm-up', end // 2: 'middle', end: 'last'}
    return Course(rate, (117_266, 16, COCO_EPOCH, end), events)


def semantic_fpn(lr: float = 2e-4, batch: int = 16) -> Course:
    """Polynomial of power 0.9 to 0 in 40,000 iterations."""
    return Course(
        lambda i: lr * (1 - i / 39_999) ** 0.9,
        (20_210, batch, 20_210 / batch, 40_000),
        {1: 'start', 20_000: 'middle', 40_000: 'last'},
    )


def upernet() -> Course:
    """1500 iterations up from a millionth, then down a line to 0."""

    def rate(i: np.ndarray) -> np.ndarray:
        rising = 1e-6 + (1 - 1e-6) * i / 1499
        falling = 1 - (i - 1500) / (160_000 - 1500 - 1)
        return 6e-5 * np.where(i < 1500, rising, falling)

    return Course(
        rate,
        (20_210, 16, 20_210 / 16, 160_000),
        {1: 'start', 1500: 'end of warm-up', 80_000: 'middle', 160_000: 'last'},
    )
