# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The documentation's site, which ``make docs`` builds."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = 'mmdmformer'
author = 'mmdmformer contributors'
copyright = author
release = re.search(r"'(.+)'", (ROOT / 'mmdmformer/version.py').read_text())[1]

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
# The source folder is the repository (see the Makefile): a link to any of its files then leads
# there from the site as it does on a git host, and tables of the READMEs are shown, not copied.
root_doc = 'docs/index'
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


def prepare_page(app, docname: str, source: list[str]) -> None:
    """Replace ``{modules}`` blocks by modules' docstrings, and title tables of measurements."""

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

    if docname.startswith('benchmarks/'):
        source[0] = f'---\norphan: true\n---\n# {docname}\n\n{source[0]}'
    source[0] = re.sub(r'^```{modules} (\S+) (\S+)\n```$', document, source[0], flags=re.M)


def setup(app) -> None:
    """Connect what this site needs besides Sphinx."""
    app.connect('source-read', prepare_page)
