# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What training asks of signals stays in the training process."""

import signal
import subprocess
import sys

import forks
import pytest
from torch.utils.data import DataLoader, Dataset

from mmdmformer.engine.sampling import protect_workers


class Numbers(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize('name', [test.__name__ for test in forks.TESTS])
def test_forks_of_training(name, python, tmp_path):
    result = python(forks.__file__, name, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]


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
