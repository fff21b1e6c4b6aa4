# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The documentation's site is complete, whole and readable on a phone."""

import inspect
import os
import pkgutil
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from test_docs import PAGES, ROOT

import mmdmformer
from browser import Browser, needs_browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def site(python, tmp_path_factory):
    """The folder of the site, built as ``make docs`` does."""
    pytest.importorskip('furo', reason='needs requirements/optional.txt')
    folder = tmp_path_factory.mktemp('site')
    options = ['-W', '--keep-going', '-q', '-c', ROOT / 'docs', ROOT, folder / 'site']
    result = python('sphinx', *options, cwd=folder)
    assert result.returncode == 0, result.stderr[-5000:]
    return folder / 'site'


def modules():
    """Every module of the package that defines something public."""
    for info in pkgutil.walk_packages(mmdmformer.__path__, 'mmdmformer.'):
        if not info.name.startswith('mmdmformer.version'):
            yield __import__(info.name, fromlist=['_'])


def public_names(module):
    for name, value in vars(module).items():
        is_code = inspect.isclass(value) or inspect.isfunction(value)
        is_public = not name.startswith('_') and inspect.getdoc(value)
        if is_code and is_public and value.__module__ == module.__name__:
            yield f'{module.__name__}.{name}'


def test_it_is_complete(site):
    from sphinx.util.inventory import InventoryFile

    with (site / 'objects.inv').open('rb') as file:
        inventory = InventoryFile.load(file, '', os.path.join)
    documented = {name for kind in inventory if kind.startswith('py:') for name in inventory[kind]}
    missing = [name for m in modules() for name in public_names(m) if name not in documented]
    assert missing == [], 'name their module on a page of docs/api'
    for path in PAGES:
        assert (site / path.relative_to(ROOT).with_suffix('.html')).exists()


class Page(HTMLParser):
    """The places of a page that links can lead to, and what it links to and loads."""

    def __init__(self, path):
        super().__init__()
        self.places, self.links, self.loaded = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.places.add(attrs.get('id'))
        if tag == 'a':
            self.links.append(attrs.get('href', ''))
        else:
            self.loaded += [attrs[name] for name in ('href', 'src') if name in attrs]


def test_links_and_pictures_lead_to_what_is_there(site):
    pages = {path: Page(path) for path in site.rglob('*.html')}
    wrong = set()
    for path, page in pages.items():
        web = [link for link in page.links if link.startswith('https://')]
        for link in {*page.links, *page.loaded}.difference(web):
            name, _, place = link.partition('#')
            target = (path.parent / unquote(name.partition('?')[0])).resolve() if name else path
            places = pages[target].places if place and target in pages else {place}
            if not target.exists() or unquote(place) not in places:
                wrong.add(f'{path.relative_to(site)}: {link}')
    assert wrong == set()


@needs_browser
@pytest.mark.parametrize('width', [400, 1200])
def test_pages_fit_into_the_window(site, width, tmp_path):
    """On a phone and on a desk: what is wider scrolls by itself, and the console is silent."""
    wrong = {}
    with Browser(tmp_path) as browser:
        for path in site.rglob('*.html'):
            browser.open(path.as_uri(), width)
            found = browser.evaluate(
                '({width: document.documentElement.scrollWidth,'
                'broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src)})'
            )
            if browser.complaints or found != dict(width=width, broken=[]):
                wrong[str(path.relative_to(site))] = found, browser.complaints
    assert wrong == {}
