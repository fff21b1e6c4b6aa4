# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Schedule-free optimizers: what is saved is what is evaluated, and a resumed run is the same."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmdmformer.analysis.schedule import compute_schedule
from mmdmformer.engine import OptimizerModeHook, ResumableIterLoop  # noqa: F401  (registers)

schedulefree = pytest.importorskip('schedulefree')

SETTINGS = dict(lr=0.05, weight_decay=0.01)
STEPS, STOP = 7, 4
MINI = Path(__file__).parents[2] / 'configs/mini'


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        return dict(inputs=torch.rand(4, generator=torch.Generator().manual_seed(i)))


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, inputs, mode='loss'):
        return dict(loss=(self.layers(torch.stack(list(inputs))) - 1).square().mean())


class Stop(Hook):
    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == STOP:
            raise InterruptedError


def train(folder, *hooks, resume=False):
    runner = Runner(
        Model(),
        str(folder),
        train_dataloader=dict(
            dataset=Data(),
            batch_size=3,
            num_workers=0,
            sampler=dict(type='InfiniteSampler', shuffle=False),
        ),
        optim_wrapper=dict(optimizer=dict(type='schedulefree.AdamWScheduleFree', **SETTINGS)),
        train_cfg=dict(type='ResumableIterLoop', max_iters=STEPS),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=[dict(type='OptimizerModeHook'), *hooks],
        resume=resume,
        experiment_name=f'{folder.name} {resume}',
    )
    runner.train()


def saved(folder, step):
    return torch.load(folder / f'iter_{step}.pth', weights_only=False)['state_dict']


def test_weights_are_those_of_evaluation_and_resumption_changes_nothing(tmp_path):
    train(tmp_path / 'whole')
    with pytest.raises(InterruptedError):
        train(tmp_path / 'run', Stop())
    train(tmp_path / 'run', resume=True)
    model = Model()
    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), **SETTINGS)
    optimizer.train()
    for step in range(STEPS):
        batch = [Data()[(3 * step + i) % 12]['inputs'] for i in range(3)]
        optimizer.zero_grad()
        model(batch)['loss'].backward()
        optimizer.step()
    training = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer.eval()
    whole, run = (saved(tmp_path / name, STEPS) for name in ('whole', 'run'))
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(whole[name], expected, rtol=1e-4, atol=1e-5)
        assert (whole[name] - training[name]).abs().max() > 1e-3
        assert torch.equal(run[name], whole[name])


def test_its_rates_can_be_shown():
    cfg = Config.fromfile(MINI / 'dmformer-nano_mini-imagenet.py')
    optimizer = dict(_delete_=True, type='schedulefree.AdamWScheduleFree', lr=0.01)
    cfg.merge_from_dict({'optim_wrapper.optimizer': optimizer, 'param_scheduler': None})
    rates = compute_schedule(cfg, images=(40, 'given'), quiet=True).values['learning rate']
    assert set(rates.flatten()) == {0.01}
