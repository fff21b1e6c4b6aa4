# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest
from PIL import Image

from mmdmformer.analysis.pictures import make_contact_sheet


def test_contact_sheet(tmp_path):
    colours = ['red', 'lime', 'blue']
    sources = [tmp_path / f'{colour}.png' for colour in colours]
    for colour, source in zip(colours, sources, strict=True):
        Image.new('RGB', (40, 20), colour).save(source)
    make_contact_sheet(sources, tmp_path / 'sheet.png', columns=2, height=10, gap=2)
    sheet = Image.open(tmp_path / 'sheet.png')
    assert sheet.size == (2 * 22 + 2, 2 * 12 + 2)
    pixels = [sheet.getpixel(at) for at in ((12, 7), (34, 7), (12, 19), (34, 19), (0, 0))]
    assert pixels == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (255,) * 3]


def test_no_image_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='there is no image to put into'):
        make_contact_sheet([], tmp_path / 'sheet.png')
