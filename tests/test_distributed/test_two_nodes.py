# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Two launchers, as on two machines, train one model on the built-in data."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from small_settings import settings

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = REPOSITORY / 'tools/dist_train.sh'
CLASSIFIER = REPOSITORY / 'configs/mini/dmformer-nano_mini-imagenet.py'
TIMEOUT = 200  # seconds, for both launchers together
EPOCHS, IMAGES, BATCH = 2, 40, 10

RECORDER = """
import os

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Recorder(Hook):
    def before_train(self, runner):
        self.record = dict(initial=self.weights(runner), seen=[[] for _ in range({epochs})])

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.record['seen'][runner.epoch] += [s.img_path for s in data_batch['data_samples']]

    def after_train(self, runner):
        self.record.update(final=self.weights(runner), world_size=get_world_size(),
                           local_world_size=int(os.environ['LOCAL_WORLD_SIZE']))
        torch.save(self.record, os.path.join(os.environ['RECORDS'], f'{{get_rank()}}.pth'))

    def weights(self, runner):
        state = runner.model.module.state_dict()
        return {{name: value.clone() for name, value in state.items()}}
"""

CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=['mmdmformer.prepared', 'recorder'])
custom_hooks = [dict(type='Recorder', priority='LOWEST')]
"""


def free_port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


@pytest.fixture
def start_node(tmp_path):
    """Starts a launcher in a process group of its own, and ends what is left of it."""
    port, started = free_port(), []

    def start(rank, config, *options):
        unset = ('GPUS', 'GPUS_PER_NODE', 'SRUN_ARGS', 'MASTER_PORT')
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        environment.update(
            NNODES='2', NODE_RANK=str(rank), MASTER_ADDR='127.0.0.1', PORT=str(port),
            PYTHON=sys.executable, PYTHONPATH=str(tmp_path), RECORDS=str(tmp_path),
            CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1',
        )  # fmt: skip
        # Nodes share the folder in which they start: mmengine gathers the results of validation in
        # files there. The work folders differ here, to see which node writes what.
        with (tmp_path / f'output{rank}').open('w') as output:
            process = subprocess.Popen(
                ['bash', str(LAUNCHER), str(config), '1', '--work-dir', f'node{rank}', *options],
                cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()  # torchrun passes it on to its processes, whose groups are their own
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(40)  # torchrun kills what has not ended in 30 seconds
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_two_nodes_train_one_model(start_node, mini_data, tmp_path):
    (tmp_path / 'recorder.py').write_text(RECORDER.format(epochs=EPOCHS))
    config = tmp_path / 'config.py'
    config.write_text(CONFIG.format(base=str(CLASSIFIER)))
    options = [
        '--cfg-options',
        *settings(
            CLASSIFIER, data_root=f'{mini_data}/imagenet', batch_size=BATCH, image_size=32,
            num_workers=0, max_epochs=EPOCHS,
        ),
        'val_dataloader.batch_size=10',
    ]  # fmt: skip
    nodes = [start_node(rank, config, *options) for rank in range(2)]
    deadline = time.monotonic() + TIMEOUT
    for rank, node in enumerate(nodes):
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.wait(max(0, deadline - time.monotonic()))
        output = (tmp_path / f'output{rank}').read_text()
        assert node.poll() == 0, f'node {rank}: {output[-3000:]}'

    first, second = (torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in range(2))
    for record in (first, second):
        assert (record['world_size'], record['local_world_size']) == (2, 1)
    # Each node saw its own half of the images in every epoch ...
    for epoch in range(EPOCHS):
        seen = [*first['seen'][epoch], *second['seen'][epoch]]
        assert len(seen) == len(set(seen)) == IMAGES
        assert len(first['seen'][epoch]) == IMAGES / 2
    # ... and yet both hold the same weights, bit by bit: the mean of their gradients.
    assert first['initial'].keys() == first['final'].keys() == second['final'].keys()
    for name, value in first['final'].items():
        assert torch.equal(value, second['final'][name]), name
        assert torch.equal(first['initial'][name], second['initial'][name]), name
        assert value.isfinite().all() and not torch.equal(value, first['initial'][name]), name

    # The first node alone writes logs and checkpoints.
    assert len(list((tmp_path / 'node0').glob('*/*.log'))) == 1
    assert [path for path in (tmp_path / 'node1').rglob('*') if path.is_file()] == []
    checkpoint = torch.load(tmp_path / f'node0/epoch_{EPOCHS}.pth', weights_only=False)
    for name, value in checkpoint['state_dict'].items():
        assert torch.equal(value, first['final'][name]), name
