# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What the project ships reads well anywhere, and is in one style."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LICENCE = '# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0'


def tracked(*patterns):
    """The text files that git tracks, as (name, text)."""
    if not (ROOT / '.git').exists():
        pytest.skip('needs a git checkout, to tell the project from what lies beside it')
    command = ['git', 'ls-files', '-z', '--', *patterns]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split('\0')):
        try:
            yield name, (ROOT / name).read_text(encoding='utf-8')
        except (UnicodeDecodeError, FileNotFoundError):
            continue


def lines_with(pattern):
    return [
        f'{name}:{number}: {line.strip()}'
        for name, text in tracked()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(pattern, line)
    ]


def test_no_file_names_a_package_registry():
    hosts = (
        r'pypi\.(org|python)',
        r'python' + r'hosted\.',
        r'download\.' + r'pytorch',
        r'--(extra-)?index-url[ =]\w',
    )
    assert lines_with('|'.join(hosts)) == []


def test_no_file_names_a_place_on_one_machine():
    folders = '|'.join(('work', 'root', r'home/\w+', 'Users', 'tmp/' + 'boot'))
    assert lines_with(rf'(?<![\w.~*\]}}-])/({folders})/') == []


def test_every_python_file_begins_with_its_licence():
    assert [n for n, text in tracked('*.py') if text and LICENCE not in text[:200]] == []


def test_text_ends_in_one_newline_and_lines_in_no_space():
    bad = [n for n, text in tracked() if text and (text[-1] != '\n' or text.endswith('\n\n'))]
    assert bad == []
    assert lines_with(r'[ \t]+$') == []


def test_licence_is_apache():
    text = (ROOT / 'LICENSE').read_text()
    assert 'Apache License' in text and 'Version 2.0, January 2004' in text
    assert 'END OF TERMS AND CONDITIONS' in text


def test_pre_commit_uses_the_linter_of_the_tests():
    (pin,) = re.findall(r'^ruff==.+$', (ROOT / 'requirements/tests.txt').read_text(), re.M)
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    assert set(re.findall(r'ruff==[\d.]+', hooks)) == {pin}
    assert 'http' not in hooks
