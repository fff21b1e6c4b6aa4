# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Rates of ACmix operators, in checkpoints of known content and of a short training."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from path_rates import find_path_rates, format_path_rates, read_path_rates
from small_settings import small_config

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'benchmarks/path_rates.py'


EPOCHS = 20


@pytest.fixture(scope='module', params=[('resnet', 0.01), ('swin', 2e-3)], ids=['resnet', 'swin'])
def trained(request, mini_data, tmp_path_factory):
    """The folder of a short training of a nano network on 40 of the built-in digits."""
    family, lr = request.param
    folder = tmp_path_factory.mktemp(family)
    cfg = small_config(
        f'{family}-acmix-nano_mini-imagenet', data_root=str(mini_data / 'imagenet'), batch_size=10,
        num_workers=0, image_size=32, crop_area=(1.0, 1.0), max_epochs=EPOCHS, lr=lr,
    )  # fmt: skip
    # So few steps learn little from images that are changed beyond recognition.
    cfg.model.train_cfg = None
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[:] = [s for s in pipeline if s.type not in ('RandAugment', 'RandomErasing')]
    cfg.work_dir = str(folder)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=EPOCHS)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.experiment_name = f'{family}_{id(cfg)}'
    Runner.from_cfg(cfg).train()
    return folder


def test_the_loss_falls_and_both_rates_of_every_operator_move(trained):
    (log,) = trained.glob('*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in log.read_text().splitlines()]
    assert len(losses) == 4 * EPOCHS
    first, last = sum(losses[:8]) / 8, sum(losses[-8:]) / 8
    assert last < 0.8 * first
    rates = read_path_rates(trained / f'epoch_{EPOCHS}.pth')
    assert len(rates) == len({r.operator for r in rates}) >= 4
    for r in rates:
        assert 1e-4 < abs(r.alpha - 0.5) < 0.5
        assert 1e-4 < abs(r.beta - 0.5) < 0.5


def test_tool_prints_and_plots_what_was_trained(trained, python):
    run = python(TOOL, f'epoch_{EPOCHS}.pth', cwd=trained)
    assert run.returncode == 0, run.stderr[-2000:]
    rates = read_path_rates(trained / f'epoch_{EPOCHS}.pth')
    lines = run.stdout.splitlines()
    for depth, (line, r) in enumerate(zip(lines[1:], rates, strict=False), 1):
        assert line.split() == [str(depth), r.operator, f'{r.alpha:.4f}', f'{r.beta:.4f}']
    assert lines[-1] == 'wrote work_dirs/path_rates/epoch_20.png'
    picture = trained / 'work_dirs/path_rates/epoch_20.png'
    assert picture.read_bytes().startswith(b'\x89PNG') and picture.stat().st_size > 10_000


def test_rates_come_in_the_order_of_the_network_and_one_that_is_not_learned_is_left_out():
    rates = find_path_rates(
        {
            'backbone.stages.0.1.rates.beta': torch.tensor([0.25]),
            'backbone.stages.0.1.rates.alpha': torch.tensor([0.75]),
            'backbone.stages.0.1.weight': torch.zeros(3),
            'backbone.stages.0.0.rates.alpha': torch.tensor([-1.0]),
        }
    )
    header, *lines = format_path_rates(rates).splitlines()
    assert header.split('  ')[0] == 'depth'
    assert [line.split() for line in lines] == [
        ['1', 'backbone.stages.0.1', '0.7500', '0.2500'],
        ['2', 'backbone.stages.0.0', '-1.0000', '-'],
    ]


def test_tool_names_a_mistake(python, tmp_path):
    run = python(TOOL, 'nowhere.pth', cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.strip() == 'error: checkpoint nowhere.pth does not exist: check the path.'
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), tmp_path / 'other.pth')
    run = python(TOOL, 'other.pth', cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.startswith('error: other.pth holds no rates of ACmix operators')
    assert 'Traceback' not in run.stderr
