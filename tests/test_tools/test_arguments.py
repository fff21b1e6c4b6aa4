# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Arguments that cannot be are refused before anything is done."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = [*ROOT.glob('tools/**/*.py'), *ROOT.glob('demo/*.py'), *ROOT.glob('benchmarks/*.py')]
# Where 0 or less means something.
MAY_BE_ZERO = {'--first-pixel', '--seed', '--seeds', '--box', '--pixel', '--stage'}
OPTION = re.compile(r"add_argument\(\s*'(--[\w-]+)'(?:(?!add_argument).)*?type=([\w.]+)", re.S)


def options(of):
    """Each tool's options whose type has this name."""
    return sorted(
        (str(tool.relative_to(ROOT)), option)
        for tool in TOOLS
        for option, kind in OPTION.findall(tool.read_text())
        if kind.split('.')[-1] == of
    )


def test_counts_are_told_from_other_numbers():
    assert {option for _, option in options('int')} <= MAY_BE_ZERO


@pytest.mark.parametrize('text', ['0', '-3', 'many'])
@pytest.mark.parametrize('tool, option', options('positive'))
def test_counts_are_positive(tool, option, text, python, tmp_path):
    run = python(ROOT / tool, option, text, text, cwd=tmp_path)  # some take two
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].endswith(
        f'error: argument {option}: it must be a whole number of 1 or more, not {text}'
    )


@pytest.mark.parametrize('tool, option', options('picture'))
def test_pictures_have_formats_that_can_be_written(tool, option, python, tmp_path):
    run = python(ROOT / tool, option, 'drawing.txt', cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].endswith(
        f'error: argument {option}: drawing.txt must end in one of .png, .jpg, .pdf'
    )
