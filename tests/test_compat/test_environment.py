# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A wrong environment is named at once, in one sentence with the fix.

Each case runs in a Python process that has no packages but the stubs of the case.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import mmdmformer
from mmdmformer.compat import environment

ROOT = Path(mmdmformer.__file__).parents[1]
# The module alone: importing the package runs every check.
ALONE = f"""
from importlib import util
spec = util.spec_from_file_location('environment', {environment.__file__!r})
environment = util.module_from_spec(spec)
spec.loader.exec_module(environment)
"""
PAIR = environment.KNOWN_GOOD_PAIR
TORCH = ('torch', '2.11.0+cu126', "__version__ = '2.11.0+cu126'")
MMENGINE = ('mmengine', '0.10.7', '')
FORK = ('onedl-mmengine', '0.10.12', None)
MMCV = ('mmcv', '2.1.0', '')


@pytest.fixture
def python(tmp_path):
    """Run code beside stub packages, and return the last line of what it complains about."""

    def run(code, *packages, path=()):
        for name, version, source, *requires in packages:
            if source is not None:
                (tmp_path / name).mkdir(exist_ok=True)
                (tmp_path / name / '__init__.py').write_text(source)
            if version is not None:
                info = tmp_path / f'{name.replace("-", "_")}-{version}.dist-info'
                info.mkdir()
                lines = ['Metadata-Version: 2.1', f'Name: {name}', f'Version: {version}']
                lines += [f'Requires-Dist: {requirement}' for requirement in requires]
                (info / 'METADATA').write_text('\n'.join(lines) + '\n')
        done = subprocess.run(
            [sys.executable, '-S', '-c', code],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path), str(ROOT), *path])},
        )
        assert done.returncode == 0 or 'ImportError' in done.stderr, done.stderr
        return (done.stdout or done.stderr).strip().splitlines()[-1]

    return run


def test_old_python(python):
    code = 'import sys; sys.version_info = (3, 9, 18); import mmdmformer'
    assert python(code) == (
        'ImportError: mmdmformer needs Python 3.10 or newer, not 3.9.18; make an environment with '
        'a newer one, for example with `uv venv --python 3.11`.'
    )


def test_no_torch(python):
    assert python('import mmdmformer') == (
        'ImportError: mmdmformer needs torch, which is not installed; install it with '
        f'`pip install {PAIR}`.'
    )


def test_old_torch(python):
    assert python('import mmdmformer', ('torch', '2.5.1', "__version__ = '2.5.1+cu121'")) == (
        'ImportError: mmdmformer needs torch 2.6 or newer, which loads checkpoints without running '
        'their code, not 2.5.1+cu121; install a newer one, for example with '
        f'`pip install {PAIR}`.'
    )


@pytest.mark.parametrize(
    ('requirement', 'built_for'),
    [
        ('torch==2.10.0', '2.10.0'),
        ('torch (==2.12.1)', '2.12.1'),
        ('torch (>=2.14.0)', '2.14.0'),
    ],
)
def test_torchvision_of_another_torch(python, requirement, built_for):
    torchvision = ('torchvision', '0.99.0', '', 'numpy', requirement)
    assert python('import mmdmformer', TORCH, torchvision) == (
        f'ImportError: torchvision 0.99.0 was built for torch {built_for} and does not fit torch '
        '2.11.0+cu126; install a pair that was built together, for example with '
        f'`pip install {PAIR}`.'
    )


@pytest.mark.parametrize(
    'requirement', ['torch==2.11.0', 'torch (==2.11.1)', 'torch>=2.9', 'torch', 'torch-x==1']
)
def test_torchvision_that_may_fit_is_let_through(python, requirement):
    """The next complaint comes; without the package itself there is nothing to load."""
    torchvision = ('torchvision', '0.99.0', None, requirement)
    assert 'needs mmengine' in python('import mmdmformer', TORCH, torchvision)


def test_torchvision_whose_operators_do_not_load(python, tmp_path):
    """As a CPU build beside a CUDA build of the same version."""
    source = "raise RuntimeError('operator torchvision::nms does not exist')"
    torchvision = ('torchvision', '0.99.0', source, f'torch=={torch.__version__}')
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision' / '_C.so').write_bytes(b'not a library')
    installed = str(Path(torch.__file__).parents[1])
    found = python('import mmdmformer', torchvision, path=[installed])
    assert found == (
        f'ImportError: torchvision 0.99.0 does not fit torch {torch.__version__} (its operator '
        'torchvision::nms does not load); install a pair that was built together, for example '
        f'with `pip install --force-reinstall {PAIR}`.'
    )


def test_no_mmengine(python):
    assert python('import mmdmformer', TORCH) == (
        'ImportError: mmdmformer needs mmengine, which is not installed; install it with '
        '`pip install mmengine`.'
    )


@pytest.mark.parametrize(
    ('packages', 'fix'),
    [
        ([MMENGINE], 'mmcv-lite==2.1.0'),
        ([('mmengine', None, ''), FORK], 'onedl-mmcv'),
    ],
)
def test_no_mmcv(python, packages, fix):
    assert python('import mmdmformer', TORCH, *packages) == (
        'ImportError: mmdmformer needs mmcv, which is not installed; install it with '
        f'`pip install {fix}`.'
    )


def test_no_torchvision_is_no_fault(python):
    code = ALONE + 'print(environment.check())'
    assert python(code, TORCH, MMENGINE, MMCV) == 'None'


@pytest.mark.parametrize(
    ('scope', 'official', 'fork'),
    [
        ('mmdet', 'mmdet', 'onedl-mmdetection'),
        ('mmseg', 'mmsegmentation ftfy regex', 'onedl-mmsegmentation'),
        ('mmpretrain', 'mmpretrain', 'onedl-mmpretrain'),
    ],
)
def test_missing_toolbox(python, scope, official, fork):
    code = ALONE + f'environment.require_toolbox({scope!r})'
    message = (
        f"ImportError: The config's default_scope '{scope}' needs a toolbox that is not "
        'installed; install it with `pip install {}`.'
    )
    assert python(code) == message.format(official)
    assert python(code, FORK) == message.format(fork)


def test_what_is_here_is_in_order():
    environment.check()
    for scope in ('mmengine', None, *filter(find_spec, environment.TOOLBOXES)):
        environment.require_toolbox(scope)
    mmdmformer.compat.prepare()


def test_the_pair_is_the_pinned_one():
    pinned = (Path(__file__).parents[2] / 'requirements.txt').read_text().split()
    assert set(PAIR.split()) <= set(pinned)
