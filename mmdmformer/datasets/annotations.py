# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Which objects of a data set take no part in training or evaluation, and why."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from mmengine.logging import print_log

from .bad_input import BadInputError

_NAMED = 3  # objects of each reason that a sentence names

# Why an object takes no part, and what helps.
CROWD = 'that iscrowd marks'
IGNORED = 'that ignore marks'
DIFFICULT = 'that difficult marks'
NO_MASK = 'without a mask of three points or more'
RELATIVE = 'whose box lies within 0 to 1'
NARROW = 'whose box is narrower than a pixel'
ZERO_AREA = 'whose area is 0'
NOT_FINITE = 'whose box is not finite'
SWAPPED = 'whose box has swapped corners'
NO_BOX_AREA = 'whose box has no area'
OUTSIDE = 'whose box lies outside its image'
NO_CLASS = 'whose label is no class'
MARKS = (CROWD, IGNORED, DIFFICULT)
CURES = {
    CROWD: 'set iscrowd to 0, which is 1 for regions that are not to be learnt',
    IGNORED: 'remove ignore',
    DIFFICULT: 'set difficult to 0',
    NO_MASK: 'draw masks, or take a model and a metric of boxes alone',
    RELATIVE: "multiply boxes by their image's sides, as they are read as pixels",
    NARROW: 'draw boxes of a pixel or more',
    ZERO_AREA: 'remove area, which is then computed',
    NOT_FINITE: 'write numbers',
    SWAPPED: 'write the upper left corner first',
    NO_BOX_AREA: 'draw boxes with an area',
    OUTSIDE: 'write boxes in pixels of their image',
    NO_CLASS: 'give the data set all classes of its files',
}


class LeftOut:
    """The objects of a file or folder of annotations that take no part.

    Args:
        name (str): The file or folder, for the sentence.

    Attributes:
        total (int): How many objects there are, those that take part included.
        reasons (dict[str, list[str]]): The objects by the reason, one of :data:`CURES`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = 0
        self.reasons: dict[str, list[str]] = {}

    def add(self, reason: str, what: str) -> None:
        """Count an object, named ``what``."""
        self.reasons.setdefault(reason, []).append(what)

    @property
    def faults(self) -> dict[str, list[str]]:
        """The objects that take no part through a fault, not because they are marked so."""
        return {why: found for why, found in self.reasons.items() if why not in MARKS}

    @property
    def sentence(self) -> str:
        """How many there are, why, and the first of each reason."""
        count = sum(map(len, self.reasons.values()))
        parts = (
            f'{len(found):,} {why} ({"; ".join(found[:_NAMED])}'
            f'{" and so on" if len(found) > _NAMED else ""})'
            for why, found in self.reasons.items()
        )
        return f'{self.name}: {count:,} of {self.total:,} objects take no part: {", ".join(parts)}'

    def report(self) -> None:
        """Write the sentence into the log, if there is something to say.

        Raises:
            BadInputError: If there are objects and none of them takes part.
        """
        if not self.reasons:
            return
        if sum(map(len, self.reasons.values())) >= self.total:
            cure = ', '.join(CURES[why] for why in self.reasons)
            raise BadInputError(f'{self.sentence}; none is left: {cure}.')
        level = logging.WARNING if self.faults else logging.INFO
        print_log(f'{self.sentence}.', 'current', level)


def find_box_fault(box: Sequence[float], width: float = 0, height: float = 0) -> str | None:
    """Why a box can be no object.

    Args:
        box (Sequence[float]): x1, y1, x2, y2 in pixels.
        width (float): Of the image; 0 where it is not known.
        height (float): Likewise.

    Returns:
        str | None: A clause, or None for a box that can be one.

    Examples:
        >>> find_box_fault([3, 3, 1, 5], 8, 8), find_box_fault([7, 7, 9, 9], 8, 8)
        ('whose box has swapped corners', None)
    """
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return NOT_FINITE
    if x2 < x1 or y2 < y1:
        return SWAPPED
    if x2 == x1 or y2 == y1:
        return NO_BOX_AREA
    if width and height and (x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0):
        return OUTSIDE
    return None
