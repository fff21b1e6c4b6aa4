# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The set-up script: what it trusts, what it does again, and what it says when something is wrong.

Nothing here needs the network; the installation itself is what every `make` command begins with.
"""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'requirements/install.py'
INPUTS = ['setup.py', 'pyproject.toml', 'requirements.txt', 'requirements', 'mmdmformer/version.py']


def load(path):
    spec = importlib.util.spec_from_file_location('install', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments, python=sys.executable, **environment):
    command = [str(part) for part in (python, *arguments)]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def install():
    return load(SCRIPT)


@pytest.fixture
def copy(tmp_path):
    """The set-up script of a copy of the project that a test may change."""
    root = tmp_path / 'project'
    for name in INPUTS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        copier = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copier(ROOT / name, root / name)
    return load(root / 'requirements/install.py')


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def finished(install, venv, stack='openmmlab'):
    """An environment that looks finished, and whose Python fails when it is used."""
    (venv / 'bin').mkdir(parents=True)
    (venv / 'bin/python').write_text('#!/bin/sh\nexit 1\n')
    (venv / 'bin/python').chmod(0o755)
    record = {'python': install.this_python(), **install.wanted(stack, venv)}
    (venv / install.RECORD).write_text(json.dumps(record))
    return record


@pytest.mark.parametrize('stack', ['openmmlab', 'onedl'])
def test_lock_holds_every_pin_and_names_no_place(install, stack):
    install.check_lock(stack)
    inputs = [*install.input_files(stack), 'requirements/overrides.txt']
    for path in inputs:
        lines = (ROOT / path).read_text().splitlines()
        names = [line for line in lines if line and line[0].isalpha()]
        assert names and all('==' in line for line in names), f'{path} leaves a version open'
        assert install.pins(path) <= install.pins(install.lock_file(stack))
    for line in (ROOT / install.lock_file(stack)).read_text().splitlines():
        pin = re.fullmatch(r"[\w.-]+==[\w.+!]+( ; [\w\s.<>=!'*]+)?", line)
        assert pin or line == '' or line.startswith(('#', '--no-binary ', '--only-binary'))


def test_both_stacks_share_one_torch(install):
    shared = [
        {pin for pin in install.pins(path) if not re.match('onedl-|mm|ftfy|regex', pin)}
        for path in install.STACKS.values()
    ]
    assert shared[0] == shared[1]
    assert {pin.split('==')[0] for pin in shared[0]} >= {'torch', 'torchvision', 'setuptools'}


def test_changed_pin_without_its_lock_is_refused_with_the_cure(copy, tmp_path, capsys):
    edit(copy.ROOT / 'requirements.txt', 'torch==2.11.0', 'torch==2.10.0')
    assert copy.main(['--venv', str(tmp_path / 'venv')]) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert 'requirements.txt asks for torch==2.10.0' in error[0]
    assert '`make lock`' in error[0]
    assert not (tmp_path / 'venv/bin').exists()


@pytest.mark.parametrize(
    ('path', 'old', 'stale'),
    [
        ('requirements.txt', 'mmdet==3.3.0', {'packages', 'checked'}),
        ('requirements/tests.txt', 'pytest==', {'packages', 'checked'}),
        ('requirements/lock-openmmlab.txt', 'addict==', {'packages', 'checked'}),
        ('requirements/onedl.txt', 'torch==', set()),
        ('pyproject.toml', '[build-system]', {'project', 'checked'}),
        ('mmdmformer/version.py', '__version__', {'project', 'checked'}),
    ],
)
def test_a_change_makes_stale_what_depends_on_it(copy, tmp_path, path, old, stale):
    before = copy.wanted('openmmlab', tmp_path)
    edit(copy.ROOT / path, old, '#' + old)
    after = copy.wanted('openmmlab', tmp_path)
    assert {name for name in before if before[name] != after[name]} == stale


def test_another_checkout_needs_only_its_own_installation(install, copy, tmp_path):
    here, there = (module.wanted('openmmlab', tmp_path) for module in (install, copy))
    assert here['packages'] == there['packages']
    assert here['project'] != there['project']
    assert here['packages'] != install.wanted('openmmlab', tmp_path / 'moved')['packages']


def test_finished_environment_is_left_alone_in_silence(install, tmp_path):
    venv = tmp_path / 'venv'
    finished(install, venv)
    files = {path: path.stat().st_mtime_ns for path in venv.rglob('*')}
    result = run(SCRIPT, '--venv', venv)
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')
    assert {path: path.stat().st_mtime_ns for path in venv.rglob('*')} == files


@pytest.fixture(scope='module')
def interrupted(tmp_path_factory):
    """A set-up that was stopped while installing, begun again without a network."""
    install = load(SCRIPT)
    venv = tmp_path_factory.mktemp('interrupted') / 'venv'
    record = finished(install, venv)
    del record['packages']
    (venv / install.RECORD).write_text(json.dumps(record))
    (venv / 'left').mkdir()
    return venv, run(SCRIPT, '--venv', venv, PIP_NO_INDEX='1', PIP_FIND_LINKS='')


def test_interrupted_set_up_begins_anew_and_a_missing_network_is_said(install, interrupted):
    venv, result = interrupted
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith('Set-up: The packages could not be fetched') and '`make setup`' in last
    assert not (venv / 'left').exists()
    assert run('-c', 'import pip', python=venv / 'bin/python').returncode == 0
    assert json.loads((venv / install.RECORD).read_text()) == {'python': install.this_python()}


def test_uv_gets_the_index_that_pip_is_told_of(install, interrupted, monkeypatch):
    venv, _ = interrupted
    uv = venv / 'bin/uv'
    uv.write_text(f'#!/bin/sh\necho {venv}/cache\n')
    uv.chmod(0o755)
    monkeypatch.delenv('UV_DEFAULT_INDEX', raising=False)
    monkeypatch.setenv('PIP_INDEX_URL', 'https://mirror.example/simple')
    environment = install.uv_environment(venv, uv)
    assert environment['UV_DEFAULT_INDEX'] == 'https://mirror.example/simple'
    assert (venv / 'cache').is_dir() and 'UV_LINK_MODE' not in environment
    monkeypatch.setenv('UV_DEFAULT_INDEX', 'https://other.example/simple')
    environment = install.uv_environment(venv, uv)
    assert environment['UV_DEFAULT_INDEX'] == 'https://other.example/simple'


def test_second_set_up_waits_for_the_first(install, tmp_path):
    venv = tmp_path / 'venv'
    finished(install, venv)
    command = [sys.executable, str(SCRIPT), '--venv', str(venv)]
    with install.hold(venv):
        second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert second.stdout.readline().startswith('waiting for another set-up')
        assert second.poll() is None
    assert second.wait(timeout=60) == 0


def test_folder_of_the_user_is_not_touched(tmp_path):
    (tmp_path / 'mine').write_text('')
    result = run(SCRIPT, '--venv', tmp_path)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert f'{tmp_path} holds something' in result.stderr and 'VENV=' in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['mine']


def test_unusable_folder_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    result = run(SCRIPT, '--venv', tmp_path / 'file/venv')
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert f'{tmp_path}/file/venv' in result.stderr and 'VENV=' in result.stderr


def test_python_without_venv_is_told_what_to_install(tmp_path):
    (tmp_path / 'ensurepip.py').write_text('raise ImportError')
    result = run(SCRIPT, '--venv', tmp_path / 'venv', PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert re.search(r'`apt install python3\.\d+-venv`', result.stderr)
    assert not (tmp_path / 'venv').exists()


def test_old_python_can_read_the_script():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def old_pythons():
    """Pythons too old for this project, where the machine has some."""
    places = [*Path.home().glob('.pyenv/versions/3.[6-9].*/bin/python')]
    places += [Path(folder) / f'python3.{minor}' for folder in ('/usr/bin',) for minor in (6, 8, 9)]
    return [path for path in places if path.exists()]


@pytest.mark.skipif(not old_pythons(), reason='no Python older than 3.10 on this machine')
@pytest.mark.parametrize('python', old_pythons(), ids=lambda path: path.parts[-3])
def test_old_python_is_told_in_one_sentence(python, tmp_path):
    result = run(SCRIPT, '--venv', tmp_path / 'venv', '--stack', 'onedl', python=python)
    assert result.returncode == 1
    assert re.fullmatch(
        r'Set-up: Python 3\.10 to 3\.\d+ is needed and this is 3\.[6-9]\.\d+ \(.+\): '
        r'(install one and )?run `make setup STACK=onedl PYTHON=python3\.1\d`\.\n',
        result.stderr,
    )
    assert not (tmp_path / 'venv').exists()
