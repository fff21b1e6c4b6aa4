# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Configs with synchronized batch norm train where it cannot run: on CPUs and in one process."""

import multiprocessing
import os
import socket
from contextlib import ExitStack

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch import nn

from mmdmformer import DMFormer
from mmdmformer.engine import runtime

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='synchronizes on GPUs')
SYNC_BN = dict(norm_cfg=dict(type='SyncBN'))


@DATASETS.register_module()
class FourImages(torch.utils.data.Dataset):
    metainfo = {}

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return dict(inputs=torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i)))


@MODELS.register_module()
class MeanFeature(BaseModel):
    def __init__(self, norm_cfg):
        super().__init__()
        self.backbone = DMFormer('nano', norm_cfg=norm_cfg)

    def forward(self, inputs, mode):
        return dict(loss=self.backbone(inputs)[0].square().mean())


def train(folder, launcher, norm_cfg, **settings):
    """Train as the entry does, and tell which norms the trained model has and how they changed."""
    cfg = Config(
        dict(
            default_scope='mmengine',
            work_dir=str(folder),
            model=dict(type='MeanFeature', norm_cfg=norm_cfg),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                collate_fn=dict(type='default_collate'),
                dataset=dict(type='FourImages'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            default_hooks=dict(checkpoint=None),
            sync_bn='torch',
            experiment_name=f'{folder} {launcher}',
            **settings,
        )
    )
    runtime.prepare_launcher(cfg, launcher)
    runner = runtime.build_runner(cfg)
    runner.train()
    norms = [m for m in runner.model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    assert all(norm.num_batches_tracked > 0 for norm in norms)
    return sorted({type(norm).__name__ for norm in norms})


@pytest.mark.parametrize('kind, norms', [('SyncBN', ['_BatchNormXd']), ('BN', ['BatchNorm2d'])])
def test_one_process(kind, norms, tmp_path):
    assert train(tmp_path, 'none', dict(type=kind)) == norms
    (log,) = tmp_path.glob('*/*.log')
    assert (
        'all SyncBatchNorm (SyncBN) layers in the model will be automatically rev'
        in log.read_text()
    )


WRAPPERS = {
    'own wrapper': {},
    'settings of the wrapper': dict(model_wrapper_cfg=dict(find_unused_parameters=True)),
    'named wrapper': dict(
        model_wrapper_cfg=dict(type='MMDistributedDataParallel', static_graph=True)
    ),
}


def train_together(rank, ports, folder, queue):
    torchrun = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR='127.0.0.1')
    os.environ.update({k: str(v) for k, v in torchrun.items()})
    for port, (name, settings) in zip(ports, WRAPPERS.items(), strict=True):
        os.environ['MASTER_PORT'] = str(port)  # one may not be free again at once
        norms = train(folder / name, 'pytorch', SYNC_BN['norm_cfg'], **settings)
        queue.put((name, norms))
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def find_free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(('127.0.0.1', 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.mark.slow
def test_two_processes_without_gpu(tmp_path):
    ports = find_free_ports(len(WRAPPERS))
    # A fork of a process that has computed gradients may compute none.
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    processes = [
        context.Process(target=train_together, args=(rank, ports, tmp_path, queue), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = [queue.get(timeout=240) for _ in processes for _ in WRAPPERS]
    for process in processes:
        process.join()
    assert sorted(found) == sorted((name, ['_BatchNormXd']) for name in WRAPPERS for _ in processes)
    for name in WRAPPERS:
        (log,) = (tmp_path / name).glob('*/*.log')
        assert 'No GPU: batch norm is not synchronized.' in log.read_text()
