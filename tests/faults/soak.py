# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Memory and open files of a long training run."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from .mini_runs import MiniRun, make_data

COLUMNS = ('iteration', 'memory_mib', 'open_files')
_PER_EPOCH = 8  # iterations, two images each
_EVERY = 8  # iterations between two records


@HOOKS.register_module()
class ResourceHook(Hook):
    """Writes resident memory and the number of open files to the file ``SOAK``."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Write a line now and then."""
        if self.every_n_train_iters(runner, _EVERY):
            pages = int(Path('/proc/self/statm').read_text().split()[1])
            memory = pages * os.sysconf('SC_PAGE_SIZE') / 2**20
            files = len(os.listdir('/proc/self/fd'))
            with open(os.environ['SOAK'], 'a') as file:
                file.write(f'{runner.iter + 1},{memory:.1f},{files}\n')


def soak(iterations: int, folder: Path) -> list[dict[str, float]]:
    """Train a small classifier, with a validation and a checkpoint every 8 iterations.

    Args:
        iterations (int): How many.
        folder (Path): An empty folder.

    Returns:
        list[dict[str, float]]: Records with :data:`COLUMNS`.

    Raises:
        RuntimeError: If training fails.
    """
    make_data(folder)
    run = MiniRun(
        'classification', folder, 'run', 'default_hooks.logger.interval=8', batch_size=2,
        max_epochs=iterations // _PER_EPOCH,
    )  # fmt: skip
    config = run.config.read_text().replace("faults.injection'", "faults.soak'")
    run.config.write_text(config.replace('InjectionHook', 'ResourceHook'))
    path = folder / 'records.csv'
    path.write_text(','.join(COLUMNS) + '\n')
    if run.run(SOAK=str(path), timeout=3600) != [0]:
        raise RuntimeError(run.output()[-3000:])
    return read_records(path)


def read_records(path: Path) -> list[dict[str, float]]:
    """Records of a CSV file with :data:`COLUMNS`."""
    with path.open(newline='') as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
