# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The gradients of a batch do not depend on how many processes share it."""

import subprocess
import sys
from pathlib import Path

import ddp_gradients
import pytest
import torch

WORKER = Path(__file__).with_name('ddp_gradients.py')


@pytest.fixture(scope='module')
def of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ddp')
    workers = [
        subprocess.Popen([sys.executable, str(WORKER), str(rank), str(folder)]) for rank in range(2)
    ]
    assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    return torch.load(folder / 'gradients.pth', weights_only=True)


@pytest.mark.parametrize('case', ddp_gradients.CASES)
def test_two_processes_give_the_gradients_of_one(case, of_two_processes):
    model = ddp_gradients.build(case)
    ddp_gradients.loss(model(ddp_gradients.images())).backward()
    expected = ddp_gradients.gradients(model)
    found = of_two_processes[case]
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None and gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-10, msg=name)
