# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Putting pictures together."""

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def make_contact_sheet(
    sources: Sequence[Path], target: Path, columns: int = 4, height: int = 256, gap: int = 8
) -> None:
    """Put images of any size into the rows of one picture.

    Args:
        sources (Sequence[Path]): Image files, at least one.
        target (Path): Picture to write.
        columns (int): Images in a row. Defaults to 4.
        height (int): Height in pixels to which each image is scaled.
            Defaults to 256.
        gap (int): Pixels between images. Defaults to 8.

    Raises:
        ValueError: If there is no image.
    """
    if not sources:
        raise ValueError(f'there is no image to put into {target}.')
    images = [Image.open(source).convert('RGB') for source in sources]
    tiles = [image.resize((round(image.width * height / image.height), height)) for image in images]
    width = max(tile.width for tile in tiles)
    rows = math.ceil(len(tiles) / columns)
    size = (columns * (width + gap) + gap, rows * (height + gap) + gap)
    sheet = Image.new('RGB', size, 'white')
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet.paste(tile, (gap + column * (width + gap), gap + row * (height + gap)))
    sheet.save(target)
