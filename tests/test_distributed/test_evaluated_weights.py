# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The weights that are validated are those that are saved, and those that a test then uses."""

import subprocess
import sys
from pathlib import Path

import evaluated_weights
import pytest
import torch

WORKER = Path(__file__).with_name('evaluated_weights.py')


@pytest.fixture(scope='module', params=[1, 2], ids=['one process', 'two processes'])
def runs(request, tmp_path_factory):
    processes, folder = request.param, tmp_path_factory.mktemp('runs')
    workers = [
        subprocess.Popen([sys.executable, str(WORKER), str(rank), str(processes), str(folder)])
        for rank in range(processes)
    ]
    assert [worker.wait(timeout=240) for worker in workers] == [0] * processes
    return processes, folder


@pytest.mark.parametrize('loop, average', evaluated_weights.CASES)
def test_validated_saved_and_tested_are_the_same(loop, average, runs):
    processes, folder = runs
    case = folder / f'{loop} {average}'
    unit, length = ('epoch', 4 // processes) if loop == 'epochs' else ('iter', 1)
    numbers = (1, 2) if loop == 'epochs' else (2, 4)
    for number in numbers:
        saved = torch.load(case / f'{unit}_{number}.pth', weights_only=False)['state_dict']
        names = [f'validated_{number * length}_{rank}' for rank in range(processes)]
        if number == numbers[-1]:
            names += [f'tested__{rank}' for rank in range(processes)]
        for name in names:
            used = torch.load(case / f'{name}.pth')
            assert used.keys() == saved.keys()
            assert all(torch.equal(used[key], saved[key]) for key in saved), name
    before, after = (torch.load(case / f'{unit}_{n}.pth', weights_only=False) for n in numbers)
    for key in ('layers.1.running_mean', 'layers.0.weight'):
        assert not torch.equal(before['state_dict'][key], after['state_dict'][key])
