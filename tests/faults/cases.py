# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Many small faults in a process of their own, which notices crashes and hangs."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection

import cv2
import numpy as np
import torch

from . import Outcome

TIME_LIMIT = 60  # seconds for one case, most of which take milliseconds


class Failure(Exception):
    """Something that must not happen; the message says what."""


def run_cases(case: Callable[[np.random.Generator], str], times: int, seed: int) -> Outcome:
    """Run a case many times, each with random numbers of its own.

    Args:
        case (Callable): Takes the random numbers. Returns in words what happened, and raises for
            what must not happen.
        times (int): How many.
        seed (int): The number of the first one.

    Returns:
        Outcome: What happened; what was raised, crashed or hung is a failure.
    """
    outcome, number, end = Outcome(), seed, seed + times
    while number < end:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        worker = multiprocessing.get_context('fork').Process(
            target=_work, args=(case, range(number, end), sender)
        )
        worker.start()
        sender.close()
        try:
            while number < end and receiver.poll(TIME_LIMIT):
                what, failed = receiver.recv()
                outcome.fail(f'{number}: {what}') if failed else outcome.add(what)
                number += 1
            if number < end:
                outcome.fail(f'{number}: it hangs')
                number += 1
        except EOFError:
            worker.join()
            outcome.fail(f'{number}: the process ends with code {worker.exitcode}')
            number += 1
        worker.kill()
        worker.join()
    return outcome


def _work(case: Callable, numbers: range, sender: Connection) -> None:
    torch.set_num_threads(1)  # the threads of others do not survive a fork
    cv2.setNumThreads(0)
    with open(os.devnull, 'w') as nowhere:  # decoders complain there of what they are given
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    for number in numbers:
        try:
            sender.send((case(np.random.default_rng(number)), False))
        except Failure as error:
            sender.send((str(error), True))
        except Exception as error:
            sender.send((f'{type(error).__name__}: {error}', True))
