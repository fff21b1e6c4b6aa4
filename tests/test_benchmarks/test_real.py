# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The results on real data: what is left to run, what is written down, and what is shown of it."""

import json
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from mmdmformer.checkpoints import read_checkpoint
from mmdmformer.engine.runtime import UsageError

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'benchmarks/real/run.py'
CIFAR10, BCCD = 'cifar10/dmformer-nano_cifar10', 'bccd/retinanet_dmformer-nano_fpn_bccd'


@pytest.fixture(scope='module')
def real():
    """The program as a module; ``run`` is no name for one."""
    spec = spec_from_file_location('real_run', TOOL)
    module = sys.modules['real_run'] = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules['real_run']


@pytest.fixture(scope='module')
def rows(real):
    pytest.importorskip('mmpretrain')
    # The first two steps are logged again by a run that went on from a checkpoint.
    scalars = [dict(step=s, loss=1.0, time=t) for s, t in ((60, 2), (120, 4), (60, 1), (120, 3))]
    values = {'accuracy/top1': 85.123, 'accuracy/top5': 99.0, 'step': 16}
    return real.make_rows(CIFAR10, 0, scalars, dict(val=values, test=values))


def test_rows_are_what_was_measured(rows):
    assert [(row.split, row.metric, row.value) for row in rows] == [
        ('val', 'top-1', 85.12),
        ('test', 'top-1', 85.12),
    ]
    assert rows[0].minutes == 4.0 and rows[0].network == 'dmformer-nano'
    assert rows[0].parameters == 861_114
    assert rows[0].multiply_adds == 10_663_680


def test_a_metric_that_is_missing_is_named(real):
    pytest.importorskip('mmpretrain')
    with pytest.raises(UsageError, match='nano_cifar10 measured no accuracy/top1 on the val'):
        real.make_rows(CIFAR10, 0, [], dict(val={}))


def test_file_keeps_rows_and_tells_what_is_left(real, rows, tmp_path):
    path = tmp_path / 'results.csv'
    assert real.read_results(path) == []
    two_stage = replace(rows[0], multiply_adds=None)
    real.add_results(rows, path)
    real.add_results([two_stage], path)
    assert real.read_results(path) == [*rows, two_stage]
    left = real.missing_runs(real.read_results(path), [CIFAR10, BCCD], 2)
    assert left == [(BCCD, 0), (CIFAR10, 1), (BCCD, 1)]


def test_table_shows_means_and_spreads_of_the_seeds(real, rows):
    seeds = [*rows, *(replace(row, seed=1, value=row.value + 1) for row in rows)]
    line = real.make_table(seeds, 'cifar10').splitlines()[-1]
    assert '| 85.6 ± 0.7 | 85.6 ± 0.7 | 2 | 0.86 M |' in line
    assert line.endswith('| 4 |')
    assert '| 85.1 | 85.1 | 1 |' in real.make_table(rows, 'cifar10')


def test_committed_table_is_that_of_the_results(real):
    assert real.PAGE.read_text() == real.make_page(real.read_results())


def test_committed_results_have_their_logs_and_weights(real):
    for row in real.read_results():
        name = Path(row.config).name
        lines = (ROOT / f'benchmarks/real/logs/{name}_seed{row.seed}.jsonl').read_text()
        scalars = [json.loads(line) for line in lines.splitlines()]
        assert round(real.training_minutes(scalars), 1) == row.minutes
        if row.split == 'val':
            last = [s for s in scalars if 'loss' not in s][-1]
            group = real.SETS[row.set]
            assert row.value == round(last[group.metrics[row.metric]] * group.scale, 2)
        if row.seed == 0 and row.config in real.SHIPPED:
            shipped = ROOT / real.SHIPPED[row.config] / f'{name}.safetensors'
            recorded = [real.Row(**r) for r in read_checkpoint(str(shipped))['meta']['results']]
            assert row in recorded
    shipped = list((ROOT / 'weights').glob('*')) + list((ROOT / 'mmdmformer/weights').glob('*'))
    assert sum(path.stat().st_size for path in shipped) < 20e6
