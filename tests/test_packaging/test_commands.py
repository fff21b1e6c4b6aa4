# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The Makefile and .ci/run: which environment and which program a command leads to."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def make(*arguments, **variables):
    """What ``make`` would do, without the variables of a make that runs this test."""
    names = ('MAKEFLAGS', 'MAKELEVEL', 'MFLAGS', 'STACK', 'VENV', 'PYTHON', 'JOBS', 'ARGS', 'DATA')
    environment = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        ['make', '-n', *arguments],
        cwd=ROOT,
        env={**environment, **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ('arguments', 'lines'),
    [
        (['setup'], ['python3 requirements/install.py --stack openmmlab --venv .venv']),
        (['setup', 'STACK=onedl'], ['--stack onedl --venv .venv-onedl']),
        (['setup', 'VENV=/e'], ['--stack openmmlab --venv /e']),
        (['setup', 'PYTHON=python3.12'], ['python3.12 requirements', '.venv --fixed-python']),
        (
            ['test'],
            [
                '--venv .venv',
                'ruff check',
                'ruff format --check',
                'lint-imports',
                "-n 2 -m 'not slow and not long'",
            ],
        ),
        (
            ['test', 'JOBS=1', 'ARGS=-x'],
            [".venv/bin/python -m pytest  -m 'not slow and not long' -x"],
        ),
        (['test-all'], ['ruff check', 'pytest -n 2 \n']),
        (['demo'], ['--venv .venv', '.venv/bin/python demo/three_tasks.py']),
        (['demo', 'DATA=/d'], ['demo/three_tasks.py --data /d']),
        (['demo', 'STACK=onedl'], ['.venv-onedl/bin/python demo/three_tasks.py']),
        (['demo-all'], ['demo/three_tasks.py --all']),
        (['docs'], ['.venv/bin/python -m sphinx -W --keep-going -q -c docs . docs/_build']),
        (['demo-classification'], ['demo/three_tasks.py --only classification']),
    ],
)
def test_command_leads_to_its_program_through_set_up(arguments, lines):
    output = make(*arguments).stdout
    places = [output.find(line) for line in lines]
    assert -1 not in places and places == sorted(places), output
    assert 'requirements/install.py' in output
    assert ('--fixed-python' in output) == any('PYTHON' in part for part in arguments)


def test_python_from_the_environment_counts_as_a_choice():
    assert 'python3.13 requirements/install.py' in make('setup', PYTHON='python3.13').stdout


def test_unknown_stack_is_named_with_the_possible_ones():
    result = make('setup', 'STACK=mmlab')
    assert result.returncode != 0
    assert "STACK is 'mmlab': it can be openmmlab or onedl" in result.stderr


@pytest.fixture
def ci(tmp_path):
    """Runs .ci/run of a copy of the requirements, with a ``make`` that writes down its calls."""
    project, envs, programs = (tmp_path / name for name in ('project', 'envs', 'bin'))
    for name in ('requirements', '.ci'):
        shutil.copytree(ROOT / name, project / name)
    shutil.copy(ROOT / 'requirements.txt', project)
    programs.mkdir()
    stub = programs / 'make'
    stub.write_text(f'#!/bin/sh\nmkdir -p "${{4#VENV=}}"\necho "$@" >> {tmp_path}/calls\n')
    stub.chmod(0o755)

    def run():
        (tmp_path / 'calls').write_text('')
        environment = {
            **os.environ,
            'PATH': f'{programs}:{os.environ["PATH"]}',
            'MMDMFORMER_ENVS': str(envs),
        }
        subprocess.run(['bash', project / '.ci/run'], check=True, env=environment, cwd=tmp_path)
        calls = [line.split()[1:] for line in (tmp_path / 'calls').read_text().splitlines()]
        return calls, {path.name for path in envs.iterdir() if path.is_dir()}

    return project, run


@pytest.mark.skipif(not shutil.which('flock'), reason='.ci/run needs flock')
def test_ci_keeps_one_environment_per_stack_until_a_requirement_changes(ci):
    project, run = ci
    calls, envs = run()
    assert [call[:2] for call in calls] == [
        ['test-all', 'STACK=openmmlab'],
        ['test', 'STACK=onedl'],
        ['clients', 'STACK=openmmlab'],
        ['demo-classification', 'STACK=openmmlab'],
    ]
    assert calls[0][2] == calls[2][2] == calls[3][2]
    assert {Path(call[2]).name for call in calls} == envs and len(envs) == 2
    assert run() == (calls, envs)

    with open(project / 'requirements/tests.txt', 'a') as file:
        file.write('# changed\n')
    _, changed = run()
    assert len(changed) == 2 and not changed & envs
