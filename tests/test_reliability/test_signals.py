# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A scheduler's signals: saved, ended with 75, and gone on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.mini_runs import MiniRun, make_data
from faults.training import differences, last_checkpoint

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Data, and a classification run that nobody disturbed."""
    folder = tmp_path_factory.mktemp('signals')
    make_data(folder)
    assert MiniRun('classification', folder, 'reference').run() == [0]
    return folder


def assert_goes_on(run, folder):
    assert run.run('--resume') == [0] * run.processes, run.output()[-2000:]
    last = last_checkpoint(run.work_dir)
    if run.processes == 1:
        assert differences(last, folder / 'reference' / last.name) == []
    return last


@pytest.mark.parametrize('name', ['term', pytest.param('usr1', marks=pytest.mark.long)])
def test_signal_in_a_step_saves_within_the_epoch(name, folder):
    run = MiniRun('classification', folder, name, 'train_dataloader.num_workers=1')
    assert run.run(INJECT=f'step:6:{name}') == [75], run.output()[-2000:]
    assert last_checkpoint(run.work_dir).name == 'epoch_1_iter_6.pth'
    assert run.output().splitlines()[-1] == (
        f'interrupted by SIG{name.upper()} after iteration 6: start again with --resume to go on '
        f'from the last checkpoint in {run.work_dir}.'
    )
    assert 'Traceback' not in run.output()
    last = assert_goes_on(run, folder)
    assert last.name == 'epoch_3.pth'
    # max_keep_ckpts=2 counts the checkpoint within the epoch as well.
    assert {p.name for p in run.work_dir.glob('epoch*.pth')} == {'epoch_2.pth', 'epoch_3.pth'}


@pytest.mark.slow
def test_signal_in_a_validation_ends_at_once(folder):
    run = MiniRun('classification', folder, 'validating')
    assert run.run(INJECT='validation:4:term') == [75]  # the first of 3 batches after epoch 2
    assert 'Epoch(val) [2][2/3]' not in run.output()
    assert last_checkpoint(run.work_dir).name == 'epoch_2.pth'
    assert_goes_on(run, folder)
    assert 'Epoch(val) [2][3/3]' in run.output()


@pytest.mark.slow
def test_signal_to_one_of_two_processes_ends_both_at_the_same_iteration(folder):
    run = MiniRun('classification', folder, 'two', processes=2)
    assert run.run(INJECT='step:2:term', INJECT_RANK='1') == [75, 75], run.output()[-2000:]
    assert last_checkpoint(run.work_dir).name == 'epoch_0_iter_2.pth'
    assert 'interrupted' in run.output(0) and 'interrupted' not in run.output(1)
    assert_goes_on(run, folder)


WORKER = """
import os, signal, sys, time

signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
open('ready' + os.environ['RANK'], 'w').close()
time.sleep(60)
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_launcher_passes_signals_on_and_ends_with_the_code(number, tmp_path):
    (tmp_path / 'worker.py').write_text(WORKER)
    command = [sys.executable, TOOLS / 'torchrun.py', '--standalone', '--local-addr=127.0.0.1']
    launcher = subprocess.Popen([*command, '--nproc-per-node=2', 'worker.py'], cwd=tmp_path)
    deadline = time.monotonic() + 100
    while len(list(tmp_path.glob('ready*'))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    launcher.send_signal(number)
    assert launcher.wait(50) == 75


PROGRAMS = {
    # runs what is queued as often as it is queued
    'sbatch': 'printf "%s\\n" "$@" > sbatch.log; for a; do wrap=${a#--wrap=}; done\n'
    'while rm -f requeued; SLURM_JOB_ID=7 bash -c "$wrap"; code=$?; [[ -e requeued ]]; do :; done\n'
    'exit $code',
    'srun': 'while [[ $1 == -* ]]; do shift; done\nSLURM_STEP_NUM_NODES=1 SLURM_NODEID=0 exec "$@"',
    'scontrol': '[[ $* == "requeue 7" ]] && touch requeued',
    # is interrupted twice
    'python': 'echo "$@" >> python.log; (($(wc -l < python.log) > 2)) || exit 75',
}


def test_slurm_job_is_queued_again_as_long_as_it_is_interrupted(tmp_path):
    programs = tmp_path / 'bin'
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f'#!/bin/bash\n{text}\n')
        (programs / name).chmod(0o755)
    result = subprocess.run(
        ['bash', TOOLS / 'slurm_train.sh', 'part', 'job', 'c.py', '--cfg-options', "a='b c'"],
        cwd=tmp_path,
        env={'PATH': f'{programs}:{os.environ["PATH"]}', 'REQUEUE': '1', 'WARNING': '60',
             'SBATCH_ARGS': '--time=9'},
    )  # fmt: skip
    assert result.returncode == 0
    calls = (tmp_path / 'python.log').read_text().splitlines()
    assert len(calls) == 3
    assert {call.partition('train.py')[2] for call in calls} == {
        " c.py --cfg-options a='b c' --resume --launcher pytorch"
    }
    options = (tmp_path / 'sbatch.log').read_text().splitlines()
    assert options[:3] == ['--partition=part', '--job-name=job', '--nodes=1']
    assert options[6:10] == ['--signal=USR1@60', '--requeue', '--open-mode=append', '--time=9']
