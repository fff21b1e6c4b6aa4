# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Forks of a process that listens to signals, as training does: ``python forks.py NAME``."""

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.pool import Pool

from mmdmformer.engine.hooks.signals import SIGNALS, SignalHook


def handlers(_=None):
    return [signal.getsignal(number) for number in SIGNALS]


def handlers_from_before(_):
    with Pool(1, context=multiprocessing.get_context('fork')) as pool:
        assert pool.map(handlers, [0]) == [[signal.SIG_DFL] * 2]
    assert signal.SIG_DFL not in handlers()


def no_signal_is_lost_while_a_process_is_forked(_):
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


def signals_arrive_after_a_fork(hook):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    os.kill(os.getpid(), signal.SIGTERM)
    assert hook.received == signal.SIGTERM


def process_pool_ends(_):
    """mmdet's VOC metric waits for its workers after it has sent them SIGTERM."""
    pool = Pool(2, context=multiprocessing.get_context('fork'))
    pool.apply_async(signal.pause)
    pool.terminate()


TESTS = [handlers_from_before, no_signal_is_lost_while_a_process_is_forked]
TESTS += [signals_arrive_after_a_fork, process_pool_ends]

if __name__ == '__main__':
    hook = SignalHook()
    hook.before_train(type('Runner', (), {'iter': 0}))
    globals()[sys.argv[1]](hook)
    hook.stop_listening()
