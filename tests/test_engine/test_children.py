# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What training asks of signals stays in the training process."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.pool import Pool

import pytest
from torch.utils.data import DataLoader, Dataset

from mmdmformer.engine.hooks.signals import SIGNALS, SignalHook
from mmdmformer.engine.sampling import protect_workers


class Numbers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index


@pytest.fixture
def listening():
    hook = SignalHook()
    hook.before_train(type('Runner', (), {'iter': 0}))
    yield hook
    hook.stop_listening()


def handlers(_=None):
    return [signal.getsignal(number) for number in SIGNALS]


def test_forked_processes_have_the_handlers_from_before(listening):
    with Pool(1, context=multiprocessing.get_context('fork')) as pool:
        assert pool.map(handlers, [0]) == [[signal.SIG_DFL] * 2]
    assert signal.SIG_DFL not in handlers()


def test_no_signal_is_lost_while_a_process_is_forked(listening):
    """Python forgets what reaches a child before it is ready; a pool would wait for it forever."""
    ends = []
    for _ in range(50):
        child = os.fork()
        if child == 0:
            time.sleep(5)
            os._exit(0)
        os.kill(child, signal.SIGTERM)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    assert ends == [-signal.SIGTERM] * 50


def test_signals_arrive_after_a_fork(listening):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert listening.received == signal.SIGTERM


def test_process_pool_ends(listening):
    """mmdet's VOC metric waits for its workers after it has sent them SIGTERM."""
    pool = Pool(2, context=multiprocessing.get_context('fork'))
    pool.apply_async(signal.pause)
    pool.terminate()


@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])
def test_data_workers_end_for_the_training_process(method):
    loader = DataLoader(
        Numbers(), num_workers=1, persistent_workers=True, multiprocessing_context=method
    )
    protect_workers(loader)
    assert [batch.item() for batch in loader] == [0, 1, 2, 3]
    (worker,) = loader._iterator._workers
    if method == 'fork':  # a scheduler's signal to all processes
        kill = f'import os; os.kill({worker.pid}, {int(signal.SIGTERM)})'
        subprocess.run([sys.executable, '-c', kill], check=True)
        assert [batch.item() for batch in loader] == [0, 1, 2, 3]
    worker.terminate()
    worker.join(20)
    assert not worker.is_alive()
