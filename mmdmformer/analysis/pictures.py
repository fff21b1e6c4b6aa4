# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Reading images and combining them in a figure."""

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..datasets.bad_input import BadInputError
from ..engine.runtime import UsageError

TEXT_SIZE = 14  # pixels
TEXT_LINE = 18


def read_image(path: str | Path) -> Image.Image:
    """Read an image upright and in true colors.

    Args:
        path (str | Path): Image file.

    Returns:
        Image.Image: The image, RGB.

    Raises:
        UsageError: If there is no such file.
        BadInputError: If it cannot be decoded as a whole.
    """
    if not Path(path).is_file():
        raise UsageError(f'image {path} does not exist: check the path.')
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter('ignore', UserWarning)  # of broken EXIF, which does no harm
            return ImageOps.exif_transpose(image).convert('RGB')
    except Exception as error:  # each decoder has its own
        cause = ' '.join(str(error).split()) or type(error).__name__
        raise BadInputError(
            f'image {path} cannot be read ({cause.removesuffix(".")}): restore the file.'
        ) from error


def make_contact_sheet(
    sources: Sequence[Path], target: Path, columns: int = 4, height: int = 256, gap: int = 8
) -> None:
    """Put images of any size into the rows of one figure.

    Args:
        sources (Sequence[Path]): Image files, at least one.
        target (Path): File to write.
        columns (int): Images in a row. Defaults to 4.
        height (int): Height in pixels to which each image is scaled.
            Defaults to 256.
        gap (int): Pixels between images. Defaults to 8.

    Raises:
        ValueError: If there is no image.
    """
    if not sources:
        raise ValueError(f'there is no image to put into {target}.')
    tiles = [_scale(Image.open(source).convert('RGB'), height) for source in sources]
    width = max(tile.width for tile in tiles)
    rows = math.ceil(len(tiles) / columns)
    size = (columns * (width + gap) + gap, rows * (height + gap) + gap)
    sheet = Image.new('RGB', size, 'white')
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        sheet.paste(tile, (gap + column * (width + gap), gap + row * (height + gap)))
    sheet.save(target)


def make_grid(
    rows: Sequence[Sequence[tuple[Image.Image, str]]],
    titles: Sequence[str],
    target: str | Path,
    height: int = 224,
    gap: int = 8,
) -> None:
    """Draw a table of images, with a title over each column and a caption under each image.

    Args:
        rows (Sequence[Sequence[tuple]]): Image and caption of each cell; rows
            of equal length.
        titles (Sequence[str]): One for each column. A long one is broken
            after ``_``, ``-`` or a space.
        target (str | Path): File to write; directories are created.
        height (int): Height in pixels to which each image is scaled.
            Defaults to 224.
        gap (int): Pixels between cells. Defaults to 8.
    """
    tiles = [[_scale(image, height) for image, _ in row] for row in rows]
    widths = [max(tile.width for tile in column) for column in zip(*tiles, strict=True)]
    lefts = [gap + sum(widths[:i]) + i * gap for i in range(len(widths))]
    heads = [_break(title, width) for title, width in zip(titles, widths, strict=True)]
    top = gap + TEXT_LINE * max(head.count('\n') + 1 for head in heads)
    step = height + TEXT_LINE + gap
    grid = Image.new('RGB', (lefts[-1] + widths[-1] + gap, top + len(rows) * step), 'white')
    draw = ImageDraw.Draw(grid)
    for left, head in zip(lefts, heads, strict=True):
        draw.multiline_text((left, gap // 2), head, 'black', _font(), spacing=TEXT_LINE - TEXT_SIZE)
    for i, row in enumerate(rows):
        for left, width, tile, (_, caption) in zip(lefts, widths, tiles[i], row, strict=True):
            grid.paste(tile, (left, top + i * step))
            place = (left, top + i * step + height + 1)
            draw.text(place, _cut(caption, width), 'black', _font())
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    grid.save(target)


def _scale(image: Image.Image, height: int) -> Image.Image:
    return image.resize((max(1, round(image.width * height / image.height)), height))


def _font() -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager  # slow to import; it brings a font along

    return ImageFont.truetype(font_manager.findfont('DejaVu Sans'), TEXT_SIZE)


def _break(text: str, width: int) -> str:
    """The text in lines of at most ``width`` pixels, where its words are not longer."""
    lines = ['']
    for word in re.findall(r'[^_\- ]+[_\- ]*|[_\- ]+', text):
        if lines[-1] and _font().getlength(lines[-1] + word.rstrip()) > width:
            lines.append('')
        lines[-1] += word
    return '\n'.join(line.rstrip() for line in lines)


def _cut(text: str, width: int) -> str:
    """The text, or as much of it as fits into ``width`` pixels."""
    while len(text) > 1 and _font().getlength(text) > width:
        text = f'{text.removesuffix("…")[:-1]}…'
    return text
