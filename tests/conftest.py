# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What several test files share: built-in data of the smallest size, and quick runs of programs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # read when triton is imported, which mmdmformer does

from mini_data import make_mini_data  # noqa: E402
from quick_runs import make_runs_quick  # noqa: E402

make_runs_quick()

REPOSITORY = Path(__file__).parents[1]
THIRD_PARTY = (
    'torch.distributed.fsdp',
    'torchvision',
    'mmengine.runner',
    'mmengine.visualization',
    'mmcv.cnn',
    'mmcv.transforms',
    'matplotlib.pyplot',
    'scipy.stats',
    'scipy.spatial.distance',
    'sklearn.metrics',
    'pycocotools.coco',
    'transformers',
)
TOOLBOXES = ('mmpretrain.models', 'mmdet.models', 'mmdet.evaluation', 'mmseg.models')


@pytest.fixture(autouse=True)
def _no_scope_left_behind():
    """A runner or a toolbox's API sets the default scope of the whole process."""
    yield
    DefaultScope._instance_dict.clear()


class WarmPython:
    """Runs programs as ``python`` would, without waiting for slow imports each time."""

    def __init__(self, *modules, log):
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name('warm_python.py')), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open('w'),
            text=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )

    def __call__(self, program, *args, cwd, **env):
        """Run a script or a module.

        Args:
            program (str | Path): A script, or the name of a module.
            args: Its arguments.
            cwd (Path): The folder to run in.
            env (str): Environment variables.

        Returns:
            subprocess.CompletedProcess: With ``returncode``, ``stdout`` and ``stderr``.
        """
        args = [str(arg) for arg in args]
        logs = [cwd / '.stdout', cwd / '.stderr']
        for log in logs:
            log.unlink(missing_ok=True)
        job = dict(program=str(program), args=args, cwd=str(cwd), env=env)
        job.update(stdout=str(logs[0]), stderr=str(logs[1]))
        print(json.dumps(job), file=self.server.stdin, flush=True)
        code = int(self.server.stdout.readline())
        return subprocess.CompletedProcess(
            [str(program), *args], code, *(log.read_text() for log in logs)
        )

    def close(self):
        self.server.stdin.close()
        self.server.wait()


@pytest.fixture(scope='session')
def python(tmp_path_factory):
    """Runs programs where this package and the toolboxes have been imported already."""
    log = tmp_path_factory.mktemp('warm_python') / 'log'
    runner = WarmPython(*THIRD_PARTY, 'mmdmformer', *TOOLBOXES, log=log)
    yield runner
    runner.close()


@pytest.fixture(scope='session')
def bare_python(tmp_path_factory):
    """Runs programs where neither this package nor a toolbox has been imported."""
    log = tmp_path_factory.mktemp('bare_python') / 'log'
    runner = WarmPython(*THIRD_PARTY, log=log)
    yield runner
    runner.close()


@pytest.fixture(scope='session')
def mini_data(tmp_path_factory):
    """The built-in data with a handful of images."""
    return make_mini_data(
        tmp_path_factory.mktemp('data') / 'mini',
        classification=(40, 20),
        detection=(10, 10),
        segmentation=(10, 10),
        quiet=True,
    )
