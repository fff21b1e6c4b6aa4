# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The gallery is one file that shows its pictures, and does nothing that a file's name says."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from browser import Browser, needs_browser
from gallery import make_entry, write_gallery

NAMES = [
    '<script>alert(1)</script>.png',
    '"><img src=x onerror="document.title=\'broken into\'">.png',
    '</title></figure><h2>&amp;.png',
    'plain {braces} 数字.png',
    'no text \udcff.png',
]
COLORS = ['red', 'lime', 'blue', 'white', 'black']


class Page(HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, text):
        super().__init__()
        self.opened, self.tags, self.images, self.texts = [], [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == 'img':
            self.images.append(dict(attrs))
        elif tag != 'meta':
            self.opened.append(tag)
            self.texts.setdefault(tag, []).append('')

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        if self.opened:
            self.texts[self.opened[-1]][-1] += data


@pytest.fixture(scope='module')
def gallery(tmp_path_factory):
    path = tmp_path_factory.mktemp('gallery') / 'folder/out.html'
    entries = [
        make_entry(name, f'label of {i} <b>', Image.new('RGB', (600, 300 + i), color))
        for i, (name, color) in enumerate(zip(NAMES, COLORS, strict=True))
    ]
    write_gallery(entries, path, 'A & B </title>', ['skipped: <i>broken</i>.png'])
    return path


def test_page_holds_what_it_was_given(gallery):
    text = gallery.read_text(encoding='utf-8')
    page = Page(text)
    assert page.opened == []
    assert page.tags.count('figure') == page.tags.count('img') == len(NAMES)
    assert set(page.tags) <= {
        'html', 'head', 'meta', 'title', 'style', 'body', 'h1', 'p', 'main', 'figure', 'img',
        'figcaption', 'b',
    }  # fmt: skip
    shown = [name.replace('\udcff', '?') for name in NAMES]
    assert page.texts['b'] == shown
    assert page.texts['figcaption'] == [f'label of {i} <b>' for i in range(len(NAMES))]
    assert page.texts['title'] == page.texts['h1'] == ['A & B </title>']
    assert page.texts['p'] == ['skipped: <i>broken</i>.png']
    for image, name, color in zip(page.images, shown, COLORS, strict=True):
        assert image['alt'] == name and image['loading'] == 'lazy'
        head, data = image['src'].split(',')
        assert head == 'data:image/jpeg;base64'
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as thumbnail:
            assert thumbnail.size == (int(image['width']), int(image['height']))
            assert thumbnail.width == 320 and 159 < thumbnail.height < 164
            expected = Image.new('RGB', thumbnail.size, color)
            assert np.abs(np.asarray(thumbnail, int) - np.asarray(expected, int)).max() < 8
    assert 'display: grid' in page.texts['style'][0]


def test_page_asks_for_nothing_from_elsewhere(gallery):
    text = gallery.read_text(encoding='utf-8')
    assert re.findall(r'(?:src|href)="(?!data:image/jpeg)[^"]*"|url\(|@import', text) == []
    assert "default-src 'none'" in text


@needs_browser
@pytest.mark.slow
def test_page_in_a_browser(gallery, tmp_path):
    with Browser(tmp_path / 'profile') as browser:
        browser.open(gallery.as_uri(), width=1100)
        page = Page(browser.evaluate('document.documentElement.outerHTML'))
        browser.screenshot(tmp_path / 'page.png')
        assert browser.complaints == []
    assert page.texts['title'] == ['A & B </title>']
    assert page.texts['b'] == [name.replace('\udcff', '?') for name in NAMES]
    assert 'script' not in page.tags and len(page.images) == len(NAMES)
    with Image.open(tmp_path / 'page.png') as picture:
        pixels = np.asarray(picture.convert('RGB'), int)
    seen = {}
    for color in COLORS[:3]:
        expected = np.asarray(Image.new('RGB', (1, 1), color), int)[0, 0]
        seen[color] = np.argwhere(np.abs(pixels - expected).max(2) < 10)
        assert len(seen[color]) > 0.9 * 320 * 160
    # side by side in a grid
    tops = [places[:, 0].min() for places in seen.values()]
    lefts = [places[:, 1].min() for places in seen.values()]
    assert max(tops) - min(tops) < 5
    assert lefts == sorted(lefts) and lefts[2] - lefts[0] > 600


def test_small_picture_stays_as_it_is():
    assert make_entry('', '', Image.new('RGB', (30, 20))).size == (30, 20)
