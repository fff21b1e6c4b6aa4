# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The dumped config of a run of ours gives its weights to the last bit wherever it is run again."""

import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from faults.mini_runs import MiniRun, make_data
from faults.training import differences, last_checkpoint
from mmdmformer.analysis.schedule import compute_schedule

ROOT = Path(__file__).parents[2]

TOOLBOXES = {'classification': 'mmpretrain', 'detection': 'mmdet', 'segmentation': 'mmseg'}


MMENGINE = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner

cfg = Config.fromfile(sys.argv[1])
cfg.work_dir = sys.argv[3]
Runner.from_cfg(cfg).train()
"""


def stock_tool(task, name='train.py'):
    toolbox = TOOLBOXES[task]
    spec = find_spec(toolbox)
    tool = spec and Path(spec.origin).parent / '.mim/tools' / name
    if not tool or not tool.is_file():
        pytest.skip(f'{toolbox} is not installed, or brings no tools')
    return tool


@pytest.mark.slow
@pytest.mark.parametrize(
    'task',
    [pytest.param(t, marks=[pytest.mark.long] * (t == 'segmentation')) for t in TOOLBOXES],
)
def test_stock_tool_gives_the_same_weights(task, tmp_path):
    compare(task, stock_tool(task), tmp_path)


@pytest.mark.slow
def test_plain_mmengine_gives_the_same_weights(tmp_path):
    (tmp_path / 'tool.py').write_text(MMENGINE)
    compare('classification', tmp_path / 'tool.py', tmp_path)


def compare(task, tool, tmp_path):
    make_data(tmp_path)
    ours = MiniRun(task, tmp_path, 'ours')
    assert ours.run() == [0], ours.output()[-2000:]
    (config,) = ours.work_dir.glob('*.py')  # what the run was, dumped
    command = [sys.executable, '-m', 'stock', str(tool), str(config), '--work-dir', 'stock_run']
    (tmp_path / 'stock.py').write_text(
        'import runpy, sys, torch\ntorch.set_num_threads(1)\n'
        'sys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name="__main__")\n'
    )
    path = f'{tmp_path}:{Path(__file__).parents[1]}'
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    last = last_checkpoint(tmp_path / 'stock_run')
    assert differences(last, last_checkpoint(ours.work_dir)) == []


def test_mmpretrains_own_curve_of_the_rate_is_ours(tmp_path):
    """It trains on a list of batches."""
    tool = runpy.run_path(str(stock_tool('classification', 'visualization/vis_scheduler.py')))
    cfg = Config.fromfile(ROOT / 'configs/mini/dmformer-nano_mini-imagenet.py')
    cfg.work_dir = str(tmp_path)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        theirs = tool['simulate_train'](Batches(range(3)), cfg, by_epoch=True)['lr']
    ours = compute_schedule(cfg, images=(3 * cfg.train_dataloader.batch_size, ''), quiet=True)
    assert len(theirs) == ours.num_iterations == 18
    assert theirs == pytest.approx(ours.values['learning rate'][0].tolist())


class Batches(list):
    dataset = [None]
