# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The documentation's site, which ``make docs`` builds."""

import json
import re
from functools import partial
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

ROOT = Path(__file__).resolve().parents[1]

project = 'mmdmformer'
author = 'mmdmformer contributors'
copyright = author
release = re.search(r"'(.+)'", (ROOT / 'mmdmformer/version.py').read_text())[1]

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
# The source folder is the repository (see the Makefile): a link to any of its files then leads
# there from the site as it does on a git host, and tables of the READMEs are shown, not copied.
root_doc = 'docs/index'
source_suffix = {'.md': 'markdown', '.ipynb': 'markdown'}
include_patterns = ['*.md', 'configs/*/README.md', 'benchmarks/**.md', 'docs/**']
exclude_patterns = ['.*', 'build', 'data', 'dist', 'docs/_build', 'mmdmformer', 'work_dirs']

myst_heading_anchors = 3

# A type in a docstring may be the name of classes in several modules; then it is no link.
suppress_warnings = ['ref.python']
autodoc_inherit_docstrings = False  # the toolboxes' own are not written for Sphinx
autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
python_maximum_signature_line_length = 88

html_theme = 'furo'
html_title = f'mmdmformer {release}'
html_copy_source = False
html_static_path = ['_static']
html_css_files = ['tables.css']
html_math_renderer = 'mathml'  # by the browser itself: MathJax is fetched from elsewhere


def prepare_page(app, docname: str, source: list[str]) -> None:
    """Write what ``{modules}`` and ``{readme}`` stand for, notebooks as text, tables' titles."""

    def document(match: re.Match) -> str:
        files = sorted((ROOT / match[1].replace('.', '/')).glob(match[2]))
        sections = []
        for file in files:
            if re.search(r'^(class|def) [A-Za-z]', file.read_text(), re.M):
                path = file.relative_to(ROOT).with_suffix('')
                name = '.'.join(path.parts).removesuffix('.__init__')
                directive = f'.. automodule:: {name}\n   :members:\n   :ignore-module-all:'
                sections.append(f'## {name}\n\n```{{eval-rst}}\n{directive}\n```')
        return '\n\n'.join(sections)

    def begin(match: re.Match) -> str:
        app.env.note_dependency(ROOT / 'README.md')
        _, text = (ROOT / 'README.md').read_text().split(f'## {match[1]}\n')[0].split('\n', 1)
        return re.sub(r'\]\((?!https?:|#)', '](../', text)

    def show(cell: dict) -> str:
        text = ''.join(cell['source'])
        return text if cell['cell_type'] == 'markdown' else f'```python\n{text}\n```'

    if app.env.doc2path(docname).suffix == '.ipynb':
        source[0] = '\n\n'.join(map(show, json.loads(source[0])['cells']))
    if docname.startswith('benchmarks/'):
        source[0] = f'---\norphan: true\n---\n# {docname}\n\n{source[0]}'
    source[0] = re.sub(r'^```{readme} (.+)\n```$', begin, source[0], flags=re.M)
    source[0] = re.sub(r'^```{modules} (\S+) (\S+)\n```$', document, source[0], flags=re.M)


def write_formula(writer, node, as_block: bool = False) -> None:
    """Write a formula as MathML."""
    writer.body.append(tex2mathml(node.astext(), as_block))
    raise SkipNode


def setup(app) -> None:
    """Connect what this site needs besides Sphinx."""
    app.connect('source-read', prepare_page)
    app.add_html_math_renderer(
        'mathml', (write_formula, None), (partial(write_formula, as_block=True), None)
    )
