# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Every picture of the documentation is in the table of figures, and can be made by its command."""

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'benchmarks/make_figures.py'
PAGES = [ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md'), *ROOT.glob('configs/*/README.md')]
FIGURES = runpy.run_path(str(TOOL))['FIGURES']


def shown():
    """The pictures that pages show, from the root."""
    for page in PAGES:
        for link in re.findall(r'!\[[^]]*\]\(([^)\s]+)', page.read_text()):
            if '://' not in link:
                yield str((page.parent / link).resolve().relative_to(ROOT))


def test_pictures_shown_are_those_of_the_table():
    pictures = [figure.picture for figure in FIGURES]
    assert len(pictures) == len(set(pictures))
    assert set(shown()) == set(pictures)
    assert [name for name in pictures if not (ROOT / name).is_file()] == []
    drawn = {str(p.relative_to(ROOT)) for p in (ROOT / 'docs').rglob('*.png')}
    assert {name for name in drawn if '_build' not in name} <= set(pictures)


def test_table_is_that_of_the_page(python, tmp_path):
    result = python(TOOL, '--list', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in (ROOT / 'docs/pictures.md').read_text()


@pytest.mark.parametrize('figure', FIGURES, ids=lambda figure: figure.picture)
def test_command_writes_the_picture(figure):
    program, *words = shlex.split(figure.command)
    if program == 'make':
        assert re.search(rf'^{words[0]}:', (ROOT / 'Makefile').read_text(), re.M)
        return
    if program == 'benchmarks/cpu.sh':
        assert f'{words[0]}()' in (ROOT / program).read_text()
        return
    assert program == 'python' and (ROOT / words[0]).is_file()
    if '--out' in words:
        assert figure.picture.startswith(words[words.index('--out') + 1])
    configs = [word for word in words if word.startswith('configs/')]
    assert all((ROOT / word).is_file() for word in configs)


@pytest.mark.parametrize(
    'figure', [f for f in FIGURES if f.draw and not f.needs_demo], ids=lambda figure: figure.picture
)
def test_picture_of_a_measurement_is_drawn_from_what_is_committed(figure, tmp_path):
    for file in (ROOT / figure.picture).parent.glob('*.*'):
        if file.suffix in ('.csv', '.md'):
            shutil.copy(file, tmp_path)
    figure.draw(tmp_path / Path(figure.picture).name)
    with (
        Image.open(tmp_path / Path(figure.picture).name) as new,
        Image.open(ROOT / figure.picture) as old,
    ):
        assert new.size == old.size
        difference = np.abs(
            np.asarray(new.convert('RGB'), float) - np.asarray(old.convert('RGB'), float)
        ).mean()
    assert difference < 2  # but for the fonts of another matplotlib


def test_make_leads_to_the_tool():
    listed = subprocess.run(
        ['make', '-n', 'figures', 'ARGS=--list'], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert 'requirements/install.py' in listed and 'benchmarks/make_figures.py --list' in listed


def test_unknown_figure_is_named(python, tmp_path):
    result = python(TOOL, '--only', 'cat.png', cwd=tmp_path)
    assert result.returncode == 2
    assert 'there is no cat.png: choose of docs/images/demo.png, ' in result.stderr


def test_the_architecture_is_drawn(python, tmp_path):
    result = python(ROOT / 'benchmarks/architecture_figure.py', '--out', 'drawn.png', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    images = [tmp_path / 'drawn.png', ROOT / 'docs/images/architecture.png']
    drawn, committed = (np.asarray(Image.open(path).convert('RGB'), dtype=float) for path in images)
    assert drawn.shape == committed.shape
    assert (abs(drawn - committed).max(2) > 64).mean() < 0.002  # edges, by the palette
