# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Training batches that do not depend on interruptions.

The random numbers that augment a batch depend on the seed, the process and the batch's number
alone, not on what was drawn before. So a run goes on at any batch without loading those before it,
and neither the number of workers nor whether they persist makes a difference.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.dist import all_gather_object, get_rank
from torch.utils.data import BatchSampler, DataLoader, Sampler, SequentialSampler

from ..datasets.bad_input import BadInputError

_DATA, _STEP = 0, 1  # streams of random numbers that never meet


def seed_step(seed: int, iteration: int) -> None:
    """Make the random numbers of a training step depend only on seed, process and iteration.

    Args:
        seed (int): The run's.
        iteration (int): Number of the step, from 0.
    """
    _seed_all(seed, get_rank(), iteration, _STEP)


def _seed_all(*entropy: int) -> None:
    words = [int(word) for word in np.random.SeedSequence(entropy).generate_state(3)]
    random.seed(words[0])
    np.random.seed(words[1])
    torch.default_generator.manual_seed(words[2])
    # A worker that was forked must not touch CUDA.
    if torch.cuda.is_initialized() and not torch.cuda._is_in_bad_fork():
        torch.cuda.manual_seed(words[2])


class SeededBatches(Sampler):
    """A batch sampler whose batches know their random seed and that can begin anywhere.

    Args:
        batch_sampler (Sampler): Gives lists of indices, as torch's ``BatchSampler`` does.

    Attributes:
        seed (int): Decides the random numbers of all batches.
        first (int): Number of the next pass's first batch, counted from the beginning of training.
        skip (int): How many batches the next pass leaves out at its start.
        skip_samples (int | None): How many samples of this process these batches held, if not
            batches of the present size.
    """

    def __init__(self, batch_sampler: Any) -> None:
        self.batch_sampler = batch_sampler
        self.sampler = batch_sampler.sampler
        self.batch_size = batch_sampler.batch_size
        self.drop_last = getattr(batch_sampler, 'drop_last', False)
        self.seed = getattr(self.sampler, 'seed', 0)
        self.first = self.skip = 0
        self.skip_samples: int | None = None

    @property
    def plain(self) -> bool:
        """Whether batches hold the samples in the order of the sampler."""
        return isinstance(self.sampler, (DefaultSampler, InfiniteSampler)) and (
            type(self.batch_sampler) is BatchSampler
        )

    @property
    def goes_on(self) -> bool:
        """Whether the order depends on the seed and the number of the pass alone."""
        known = isinstance(self.sampler, (DefaultSampler, InfiniteSampler, SequentialSampler))
        return known or hasattr(self.sampler, 'epoch')

    @property
    def infinite(self) -> bool:
        """Whether one pass never ends."""
        return isinstance(self.sampler, InfiniteSampler)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[SeededBatch]:
        if self.infinite:  # by itself it would go on where it was last left
            self.sampler.__init__(self.sampler.dataset, self.sampler.shuffle, self.sampler.seed)
        first, skip, self.skip = self.first, self.skip, 0
        self.first += 0 if self.infinite else len(self)  # for the pass after this one
        batches: Iterable[list[int]]
        if self.skip_samples is None:
            batches = islice(self.batch_sampler, skip, None)
        else:
            rest = islice(self.sampler, self.skip_samples, None)
            batches = BatchSampler(rest, self.batch_size, self.drop_last)
            self.skip_samples = None
        for number, batch in zip(count(first + skip), batches, strict=False):
            yield SeededBatch(batch, (self.seed, get_rank(), number, _DATA))


class SeededBatch(list):
    """The indices of a batch, with the seed of its random numbers."""

    def __init__(self, indices: list[int], entropy: tuple[int, ...]) -> None:
        super().__init__(indices)
        self.entropy = entropy

    def __reduce__(self):
        return type(self), (list(self), self.entropy)


class _SeededFetch:
    """torch's ``__getitems__`` protocol: the samples of a batch, after seeding it."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.fetch = getattr(dataset, '__getitems__', None)

    def __call__(self, batch: list[int]) -> list:
        if isinstance(batch, SeededBatch):
            _seed_all(*batch.entropy)
        return self.fetch(batch) if self.fetch else [self.dataset[index] for index in batch]


def make_resumable(loader: Any) -> None:
    """Give a data loader :class:`SeededBatches`.

    Args:
        loader (DataLoader): Changed in place. One that does not batch is left alone.
    """
    batches = getattr(loader, 'batch_sampler', None)  # a list of batches has none
    if batches is not None and not isinstance(batches, SeededBatches):
        # torch forbids the assignment, lest a loader's arguments contradict each other.
        object.__setattr__(loader, 'batch_sampler', SeededBatches(batches))
        loader.dataset.__getitems__ = _SeededFetch(loader.dataset)


def seeded_batches(loader: Any) -> SeededBatches | None:
    """The batches of a data loader that can go on; None of any other source of batches."""
    batches = getattr(loader, 'batch_sampler', None)
    return batches if isinstance(batches, SeededBatches) else None


def protect_workers(loader: DataLoader) -> None:
    """Let the workers of a data loader outlive signals that a scheduler sends to all processes.

    Their process is the one to save a checkpoint, for which it finishes a step.

    Args:
        loader (DataLoader): Changed in place.
    """
    if not isinstance(loader.worker_init_fn, _ProtectedWorker):
        loader.worker_init_fn = _ProtectedWorker(loader.worker_init_fn)


def require_same_length(loader: Any) -> None:
    """Refuse data that differ between processes, which would wait for each other for ever.

    Raises:
        BadInputError: If their lengths differ.
    """
    lengths = all_gather_object(len(loader.dataset))
    if len(set(lengths)) > 1:
        raise BadInputError(
            f'the processes see data of different lengths ({", ".join(map(str, lengths))} samples, '
            'by rank): bring the same files to every machine.'
        )


class _ProtectedWorker:
    def __init__(self, init: Callable[[int], None] | None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        parent: Any = multiprocessing.parent_process()  # with a fork server not the one of the OS
        threading.Thread(target=_end_for_parent_only, args=(parent.pid,), daemon=True).start()
        if self.init is not None:
            self.init(worker)


def _end_for_parent_only(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
