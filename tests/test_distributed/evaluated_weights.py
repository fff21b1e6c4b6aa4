# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""One of several processes that train and test the cases of test_evaluated_weights.py together.

Usage: python evaluated_weights.py RANK PROCESSES FOLDER. Each process writes the weights with which
it validated and tested.
"""

import os
import sys
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

import mmdmformer  # noqa: F401

LOOPS = {
    'epochs': dict(type='EpochBasedTrainLoop', max_epochs=2),
    'iterations': dict(type='IterBasedTrainLoop', max_iters=4, val_interval=2),
}
AVERAGES = {
    'plain': [],
    'average': [dict(type='EMAHook', momentum=0.5)],
    'average of buffers too': [dict(type='EMAHook', momentum=0.5, update_buffers=True)],
}
CASES = [(loop, average) for loop in LOOPS for average in AVERAGES]


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i))
        return dict(inputs=image * (i + 1))


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, inputs, mode):
        out = self.layers(inputs).mean((1, 2, 3))
        return dict(loss=out.square().mean()) if mode == 'loss' else list(out)


class Metric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(float(sample) for sample in data_samples)

    def compute_metrics(self, results):
        return dict(mean=sum(results) / len(results))


class Record(Hook):
    def _save(self, runner, what):
        model = getattr(runner.model, 'module', runner.model)
        name = f'{what}_{runner.iter if what == "validated" else ""}_{get_rank()}.pth'
        torch.save(model.state_dict(), Path(runner.work_dir, name))

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 0:
            self._save(runner, 'validated')

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 0:
            self._save(runner, 'tested')


def run(folder: Path, loop: str, average: str, processes: int) -> None:
    def loader():
        return dict(
            batch_size=2,
            num_workers=0,
            dataset=Data(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        )

    by_epoch = loop == 'epochs'

    def build(**settings):
        torch.manual_seed(0)
        return Runner(
            model=Model(),
            work_dir=str(folder),
            launcher='pytorch' if processes > 1 else 'none',
            custom_hooks=[*AVERAGES[average], dict(type='SyncNormStatisticsHook'), Record()],
            log_level='ERROR',
            cfg=dict(
                model_wrapper_cfg=dict(
                    type='CPUReadyDistributedDataParallel', broadcast_buffers=False
                )
            ),
            **settings,
        )

    interval = dict(type='CheckpointHook', interval=1 if by_epoch else 2, by_epoch=by_epoch)
    build(
        train_dataloader=loader(),
        train_cfg=LOOPS[loop],
        val_dataloader=loader(),
        val_cfg=dict(),
        val_evaluator=dict(type=Metric),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=interval),
    ).train()
    if processes > 1:
        torch.distributed.barrier()
    build(
        test_dataloader=loader(),
        test_cfg=dict(),
        test_evaluator=dict(type=Metric),
        load_from=(folder / 'last_checkpoint').read_text(),
    ).test()


def main(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
        torch.distributed.init_process_group(
            'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=processes
        )
    for loop, average in CASES:
        case = folder / f'{loop} {average}'
        case.mkdir(exist_ok=True)
        run(case, loop, average, processes)
    if processes > 1:
        torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
