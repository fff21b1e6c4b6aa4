# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What the project ships reads well anywhere, and is in one style."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmdmformer import __version__

ROOT = Path(__file__).resolve().parents[2]
LICENSE = '# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0'


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


def test_every_python_file_begins_with_its_license():
    assert [n for n, text in tracked('*.py') if text and LICENSE not in text[:200]] == []


def test_text_ends_in_one_newline_and_lines_in_no_space():
    bad = [n for n, text in tracked() if text and (text[-1] != '\n' or text.endswith('\n\n'))]
    assert bad == []
    assert lines_with(r'[ \t]+$') == []


def test_license_is_apache():
    text = (ROOT / 'LICENSE').read_text()
    assert 'Apache License' in text and 'Version 2.0, January 2004' in text
    assert 'END OF TERMS AND CONDITIONS' in text


def test_one_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    newest = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(), re.M)[1]
    setup = [sys.executable, 'setup.py', '-q', '--version']
    packed = subprocess.run(setup, cwd=ROOT, capture_output=True, text=True).stdout.split()[-1]
    assert {citation['version'], newest, packed} == {__version__}


def test_workflow_calls_the_commands_that_people_type():
    jobs = yaml.safe_load((ROOT / '.github/workflows/ci.yml').read_text())['jobs']
    commands = [step['run'] for job in jobs.values() for step in job['steps'] if 'run' in step]
    assert commands == ['make test STACK=${{ matrix.stack }}', 'make demo']
    makefile = (ROOT / 'Makefile').read_text()
    stacks = jobs['test']['strategy']['matrix']['stack']
    assert f'it can be {" or ".join(stacks)})' in makefile


def test_dockerfile_makes_the_environment_of_the_same_commands():
    text = (ROOT / 'docker/Dockerfile').read_text()
    assert re.findall(r'^RUN make (.*)', text, re.M) == ['setup']
    assert re.findall(r'^#   docker run .* make (.*)', text, re.M) == ['demo', 'test']
    assert 'has not been built' in text


def test_pre_commit_uses_the_linter_of_the_tests():
    (pin,) = re.findall(r'^ruff==.+$', (ROOT / 'requirements/tests.txt').read_text(), re.M)
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    assert set(re.findall(r'ruff==[\d.]+', hooks)) == {pin}
    assert 'http' not in hooks
