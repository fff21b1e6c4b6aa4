# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Training curves: what mmengine wrote comes out, also of runs that were resumed."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.visualization import LocalVisBackend

from mmdmformer.analysis.curves import plot, read_run, smooth
from mmdmformer.engine.runtime import UsageError

TOOL = Path(__file__).parents[2] / 'tools/analysis_tools/analyze_logs.py'


def write(folder, start, rows):
    """Write scalars as mmengine does."""
    backend = LocalVisBackend(str(folder / start / 'vis_data'))
    for row in rows:
        backend.add_scalars(row, step=row['step'])


def train(epoch, iteration, loss):
    return dict(loss=loss, lr=0.1, epoch=epoch, iter=iteration, step=iteration)


@pytest.fixture
def resumed(tmp_path):
    """A run by epochs that was killed after iteration 40 and went on from epoch 1."""
    folder = tmp_path / 'resumed'
    write(folder, '20260101_100000', [
        train(1, 10, 4.0), train(1, 20, 3.0), {'accuracy/top1': 50.0, 'step': 1},
        train(2, 30, 2.5), train(2, 40, 9.0),
    ])  # fmt: skip
    write(folder, '20260101_110000', [
        train(2, 30, 2.4), train(2, 40, 2.0), {'accuracy/top1': 70.0, 'step': 2},
    ])  # fmt: skip
    return folder


@pytest.fixture
def by_iteration(tmp_path):
    folder = tmp_path / 'by_iteration'
    write(folder, '20260101_100000', [
        dict(loss=1.0, iter=100, step=100), dict(mIoU=30.0, step=100), dict(mIoU=35.0, step=200),
    ])  # fmt: skip
    return folder


def test_starts_are_put_together_and_later_values_count(resumed):
    run = read_run(resumed)
    assert run.curves == {
        'loss': {10: 4.0, 20: 3.0, 30: 2.4, 40: 2.0},
        'lr': dict.fromkeys((10, 20, 30, 40), 0.1),
        'accuracy/top1': {1: 50.0, 2: 70.0},
    }
    assert run.by_epoch == run.validations == {'accuracy/top1'}


def test_validation_counts_what_training_counts(by_iteration):
    run = read_run(by_iteration)
    assert run.curves['mIoU'] == {100: 30.0, 200: 35.0}
    assert run.by_epoch == set() and run.validations == {'mIoU'}


def test_figure_shows_what_was_read(resumed, by_iteration):
    runs = [read_run(resumed), read_run(by_iteration)]
    figure = plot(runs, ['loss', 'accuracy/top1', 'mIoU'])
    loss, accuracy, miou = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ['loss', 'accuracy/top1', 'mIoU']
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert labels == ['iteration', 'epoch', 'iteration']
    np.testing.assert_array_equal(
        loss.lines[0].get_xydata(), [[10, 4], [20, 3], [30, 2.4], [40, 2]]
    )
    assert [line.get_label() for line in loss.lines] == [str(resumed), str(by_iteration)]
    assert [line.get_label() for line in miou.lines] == [str(by_iteration)]
    # the same run has the same color in each panel
    assert miou.lines[0].get_color() == loss.lines[1].get_color() != loss.lines[0].get_color()
    loss, accuracy = plot(runs[:1], ['loss', 'accuracy/top1'], window=2).axes
    raw, smoothed = loss.lines
    np.testing.assert_array_equal(raw.get_ydata(), [4.0, 3.0, 2.4, 2.0])
    np.testing.assert_allclose(smoothed.get_ydata(), [4.0, 3.5, 2.7, 2.2])
    (validations,) = accuracy.lines  # are as they are
    np.testing.assert_array_equal(validations.get_ydata(), [50.0, 70.0])


def test_smoothing_is_the_mean_of_the_last_values():
    values = np.random.default_rng(0).normal(size=50)
    expected = [values[max(0, i - 6) : i + 1].mean() for i in range(50)]
    np.testing.assert_allclose(smooth(values, 7), expected)
    np.testing.assert_allclose(smooth(values, 1), values)


def test_mistakes_are_named(resumed, tmp_path):
    with pytest.raises(
        UsageError, match=f'no scalars are in {tmp_path}: give the work_dir of a run'
    ):
        read_run(tmp_path)
    with pytest.raises(
        UsageError, match='no run has the key los: there are accuracy/top1, loss, lr'
    ):
        plot([read_run(resumed)], ['los'])
    file = resumed / '20260101_110000/vis_data/scalars.json'
    file.write_text(file.read_text() + '{"loss": 1.0, "st')  # killed while writing
    assert read_run(resumed).curves['loss'] == {10: 4.0, 20: 3.0, 30: 2.4, 40: 2.0}
    file.write_text(file.read_text() + '\n{"loss": 1.0, "step": 50}')
    with pytest.raises(UsageError, match='line 4 of .*scalars.json is no record'):
        read_run(resumed)


def test_tool(python, resumed, by_iteration, tmp_path):
    arguments = [resumed, by_iteration, '--keys', 'loss', '--smooth', '2', '--out', 'a/b.png']
    result = python(TOOL, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / 'a/b.png').read_bytes().startswith(b'\x89PNG')
    result = python(TOOL, 'nowhere', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith('error: no scalars are in nowhere')
