# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The measurements for a GPU, rehearsed without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'benchmarks/gpu.sh'
REHEARSED = 'not measured: rehearsed without a GPU'


def rehearse(out, *parts, minutes):
    env = {**os.environ, 'DEVICE': 'cpu', 'PYTHON': sys.executable, 'OUT': str(out)}
    run = subprocess.run(
        [SCRIPT, *parts],
        env={**env, 'MINUTES': str(minutes), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    rows = [line.strip('| ').split(' | ') for line in (out / 'summary.md').read_text().splitlines()]
    assert rows[0] == ['step', 'result']
    logs = ''.join(path.read_text()[-2000:] for path in out.glob('*.log'))
    return run.returncode, dict(rows[2:]), logs


def test_what_the_time_is_too_short_for_is_said(tmp_path):
    code, rows, _ = rehearse(tmp_path, minutes=0)
    assert code == 0
    assert len(rows) > 10 and set(rows.values()) == {'not measured: the time was over'}


def test_what_fails_is_said(tmp_path):
    (tmp_path / 'networks').write_text('no folder')
    code, rows, _ = rehearse(tmp_path, 'networks', minutes=5)
    assert code == 1
    assert rows == {'networks': 'not measured: exit code 1, see networks.log'}


@pytest.mark.slow
def test_rehearsal(tmp_path):
    """Of one part; all take some ten minutes."""
    code, rows, logs = rehearse(tmp_path, 'operator', minutes=8)
    assert code == 0, logs
    steps = ['operator-float32', 'operator-large-float32']
    assert rows == dict.fromkeys(steps, REHEARSED)
    for name in steps:
        assert (tmp_path / f'{name}.md').read_text().count('|') > 10
