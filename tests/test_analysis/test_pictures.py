# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from PIL import Image

from mmdmformer.analysis.pictures import _break, make_contact_sheet, make_grid, read_image
from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.engine.runtime import UsageError

COLORS = {'red': (255, 0, 0), 'lime': (0, 255, 0), 'blue': (0, 0, 255)}


def test_contact_sheet(tmp_path):
    sources = [tmp_path / f'{color}.png' for color in COLORS]
    for color, source in zip(COLORS, sources, strict=True):
        Image.new('RGB', (40, 20), color).save(source)
    make_contact_sheet(sources, tmp_path / 'sheet.png', columns=2, height=10, gap=2)
    sheet = Image.open(tmp_path / 'sheet.png')
    assert sheet.size == (2 * 22 + 2, 2 * 12 + 2)
    pixels = [sheet.getpixel(at) for at in ((12, 7), (34, 7), (12, 19), (34, 19), (0, 0))]
    assert pixels == [*COLORS.values(), (255,) * 3, (255,) * 3]


def test_no_image_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='there is no image to put into'):
        make_contact_sheet([], tmp_path / 'sheet.png')


def test_grid_puts_each_image_into_its_row_and_column(tmp_path):
    red, lime, blue = (Image.new('RGB', (40, 20), color) for color in COLORS)
    tall = Image.new('RGB', (20, 20), 'blue')
    rows = [[(red, ''), (lime, 'caption')], [(blue, 'below'), (tall, '')]]
    make_grid(rows, ['', 'title'], tmp_path / 'folder/grid.png', height=40, gap=8)
    grid = np.asarray(Image.open(tmp_path / 'folder/grid.png'))
    # gap, then for each column its widest image and a gap; title; image, caption and gap
    assert grid.shape == (8 + 18 + 2 * (40 + 18 + 8), 8 + 2 * (80 + 8), 3)
    top, step, left, right = 26, 66, 8, 96
    cells = {
        (top, left, 80): 'red', (top, right, 80): 'lime',
        (top + step, left, 80): 'blue', (top + step, right, 40): 'blue',
    }  # fmt: skip
    covered = np.zeros(grid.shape[:2], bool)
    for (y, x, width), color in cells.items():
        place = slice(y, y + 40), slice(x, x + width)
        assert (grid[place] == COLORS[color]).all()
        covered[place] = True
    dark = (grid < 128).all(2) & ~covered  # letters
    assert dark[:top, right:].any() and dark[top + 40 : top + 58, right:].any()
    assert dark[top + step + 40 : top + step + 58, left : left + 80].any()
    dark[:top, right:] = dark[top + 40 : top + 58, right:] = False
    dark[top + step + 40 : top + step + 58, left : left + 80] = False
    assert not dark.any()


def test_long_titles_are_broken_between_words():
    assert _break('dmformer-nano_mini-imagenet', 120) == 'dmformer-nano_\nmini-imagenet'
    assert _break('unbreakable', 10) == 'unbreakable'


def test_image_is_read_upright_and_in_true_colors(tmp_path):
    image = Image.new('RGB', (40, 20), (200, 30, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / 'turned.png', exif=exif)
    read = read_image(tmp_path / 'turned.png')
    assert read.size == (20, 40) and read.getpixel((5, 5)) == (200, 30, 10)
    content = (tmp_path / 'turned.png').read_bytes()
    (tmp_path / 'cut.png').write_bytes(content[:-40])
    with pytest.raises(BadInputError, match='cut.png cannot be read'):
        read_image(tmp_path / 'cut.png')
    with pytest.raises(UsageError, match='nowhere.png does not exist: check the path'):
        read_image('nowhere.png')
