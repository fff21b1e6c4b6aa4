# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Computed schedules against real runs, and what they say of a config.

tests/test_configs/test_schedules.py compares those of the recipes with formulas.
"""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmdmformer.analysis import schedule as schedules
from mmdmformer.analysis.schedule import compute_schedule, count_training_images
from mmdmformer.analysis.schedule_report import format_schedule, plot_schedule
from mmdmformer.engine.batch_size import describe_batch_size, enable_auto_scale_lr
from mmdmformer.engine.runtime import UsageError
from small_settings import settings, small_config

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / 'configs'
TOOL = REPOSITORY / 'tools/visualization/vis_scheduler.py'
CLASSIFIER = 'dmformer-s_8xb128_in1k'
RETINANET = 'retinanet_dmformer-s_fpn_8xb2-1x_coco'
SEMANTIC_FPN = 'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512'
UPERNET = 'dmformer-s_upernet_8xb2-160k_ade20k-512x512'


def production(name, iterations=None):
    """A config of the recipes; a segmentor's with another number of iterations."""
    cfg = Config.fromfile(CONFIGS / 'dmformer' / f'{name}.py')
    if iterations is not None:
        cfg.train_cfg.max_iters = cfg.param_scheduler[0].end = iterations
    return cfg


@pytest.fixture
def without_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_groups_hold_every_parameter_once(without_data):
    cfg = production(CLASSIFIER)
    cfg.train_cfg.max_epochs = 10
    groups = compute_schedule(cfg, gpus=1024, quiet=True).groups
    assert sum(group.num_parameters for group in groups) == 26_660_392
    decayed, undecayed = groups
    assert not set(decayed.names) & set(undecayed.names)
    assert 'head.fc.weight' in decayed.names and 'head.fc.bias' in undecayed.names


# Iterations in an epoch

LENGTH_CASES = {
    'rounded up': dict(sampler=dict(type='DefaultSampler', shuffle=True)),
    'not rounded': dict(sampler=dict(type='DefaultSampler', shuffle=False, round_up=False)),
    'dropped': dict(sampler=dict(type='DefaultSampler', shuffle=True), drop_last=True),
    'by aspect': dict(
        sampler=dict(type='DefaultSampler', shuffle=True),
        batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'),
    ),
    'by aspect, dropped': dict(
        sampler=dict(type='DefaultSampler', shuffle=True),
        batch_sampler=dict(type='mmdet.AspectRatioBatchSampler', drop_last=True),
    ),
    'endless': dict(sampler=dict(type='InfiniteSampler', shuffle=True)),
}
IMAGES, BATCH = 97, 4


def measure_lengths(rank, folder, queue):
    """In one of two processes: the length of the loader that mmengine's runner builds."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2
    )
    lengths = {}
    for name, case in LENGTH_CASES.items():
        loader = dict(**case, dataset=[0] * IMAGES, batch_size=BATCH, num_workers=0)
        lengths[name] = len(Runner.build_dataloader(loader, seed=0))
    if rank == 0:
        queue.put(lengths)
    torch.distributed.destroy_process_group()


def test_epoch_is_as_long_as_in_two_real_processes(tmp_path):
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    arguments = [(rank, tmp_path, queue) for rank in range(2)]
    processes = [context.Process(target=measure_lengths, args=a) for a in arguments]
    for process in processes:
        process.start()
    lengths = queue.get(timeout=120)
    for process in processes:
        process.join()
    planned = {}
    for name, case in LENGTH_CASES.items():
        cfg = Config.fromfile(CONFIGS / 'mini/retinanet_dmformer-nano_fpn_mini-coco.py')
        cfg.train_dataloader.pop('batch_sampler')
        cfg.train_dataloader.update(**case, batch_size=BATCH)
        init_default_scope('mmdet')
        planner = schedules._Planner(cfg, IMAGES, gpus=2)
        planned[name] = len(planner._train_loop.dataloader)
    assert planned == lengths
    assert lengths['rounded up'] == 13 and lengths['dropped'] == 12  # 49 images for each process


@pytest.mark.parametrize(
    'gpus, drop_last, length',
    [(8, False, 1252), (8, True, 1251), (1, False, 10_010), (64, False, 157)],
)
def test_imagenet_epoch(gpus, drop_last, length, without_data):
    cfg = production(CLASSIFIER)
    cfg.train_cfg.max_epochs = 1
    cfg.train_dataloader.drop_last = drop_last
    cfg.param_scheduler = []
    schedule = compute_schedule(cfg, gpus=gpus, quiet=True)
    assert (schedule.epoch_length, schedule.num_iterations) == (length, length)
    assert schedule.batch_size == 128 * gpus


def test_accumulated_batches_count(without_data):
    cfg = production(SEMANTIC_FPN, iterations=10)
    cfg.optim_wrapper.accumulative_counts = 4
    schedule = compute_schedule(cfg, gpus=2, quiet=True)
    assert schedule.batch_size == 16
    assert schedule.note is None
    assert schedule.epoch_length == 20_210 / 4


# The number of images


def test_images_that_are_present_are_counted(mini_data):
    name = 'retinanet_dmformer-nano_fpn_mini-coco'
    cfg = small_config(name, data_root=str(mini_data / 'coco'))
    assert count_training_images(cfg) == (9, 'counted')  # one of the ten shows nothing
    cfg.train_dataloader.dataset.filter_cfg = None
    assert count_training_images(cfg) == (10, 'counted')


def test_coco_keeps_its_empty_images_without_the_filter(without_data):
    cfg = production(RETINANET)
    cfg.train_dataloader.dataset.filter_cfg = None
    assert count_training_images(cfg)[0] == 118_287


@pytest.mark.parametrize(
    'config, change',
    [
        ('mini/dmformer-nano_mini-imagenet', {}),
        (f'dmformer/{CLASSIFIER}', dict(split='val')),
        (f'dmformer/{RETINANET}', dict(metainfo=dict(classes=('mine',)))),
        (f'dmformer/{RETINANET}', dict(ann_file='annotations/instances_val2017.json')),
        (f'dmformer/{UPERNET}', dict(data_prefix=dict(img_path='images/validation'))),
    ],
)
def test_size_of_other_data_is_not_made_up(config, change, without_data):
    cfg = Config.fromfile(CONFIGS / f'{config}.py')
    cfg.train_dataloader.dataset.update(change)
    with pytest.raises(UsageError, match='does not exist: '):
        count_training_images(cfg)


# Learning rate and batch


def short_segmentation():
    return production(SEMANTIC_FPN, iterations=20)


@pytest.mark.parametrize('gpus', [1, 4, 16])
def test_scaled_learning_rate(gpus, without_data):
    plain = compute_schedule(short_segmentation(), gpus=gpus, quiet=True)
    cfg = short_segmentation()
    enable_auto_scale_lr(cfg, 'config.py')
    scaled = compute_schedule(cfg, gpus=gpus, quiet=True)
    rates = [s.values['learning rate'] for s in (plain, scaled)]
    np.testing.assert_allclose(rates[1], rates[0] * gpus / 8, rtol=1e-12)
    assert f'scaled from 0.0002 to {2e-4 * gpus / 8:g}' in scaled.note
    assert f'this run has {2 * gpus}' in plain.note
    assert f'add --auto-scale-lr to train with {2e-4 * gpus / 8:g}' in plain.note


def test_nothing_is_said_of_a_batch_that_fits_or_that_nobody_named():
    cfg = short_segmentation()
    assert describe_batch_size(cfg, 8) is None
    cfg.pop('auto_scale_lr')
    assert describe_batch_size(cfg, 3) is None
    with pytest.raises(UsageError, match=r'needs auto_scale_lr.base_batch_size.*mine.py has none'):
        enable_auto_scale_lr(cfg, 'mine.py')


def test_momentum_and_weight_decay_that_change(without_data, tmp_path):
    cfg = short_segmentation()
    cfg.param_scheduler = [
        dict(type='LinearMomentum', start_factor=0.5, end=10, by_epoch=False),
        dict(type='PolyParamScheduler', param_name='weight_decay', eta_min=0, end=20,
             by_epoch=False),
        dict(type='StepLR', step_size=1, gamma=0.1, by_epoch=True),
    ]  # fmt: skip
    schedule = compute_schedule(cfg, gpus=8, quiet=True)
    i = np.arange(20)
    (momentum,), (decay,), (lr,) = (
        schedule.values[name] for name in ('momentum', 'weight decay', 'learning rate')
    )
    np.testing.assert_allclose(momentum, 0.9 * np.minimum(1, 0.5 + 0.5 * i / 9))
    np.testing.assert_allclose(decay, 1e-4 * (1 - i / 19), atol=1e-12)
    assert (lr == 2e-4).all()  # a loop over iterations is one epoch
    plot_schedule(schedule, tmp_path / 'folder/plot.png', 'title')
    assert (tmp_path / 'folder/plot.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('kind', ['AmpOptimWrapper', AmpOptimWrapper])
def test_optimizer_without_momentum_and_with_mixed_precision(kind, without_data):
    cfg = short_segmentation()
    optimizer = dict(type='Adagrad', lr=1.0)
    cfg.optim_wrapper = dict(type=kind, loss_scale='dynamic', optimizer=optimizer)
    schedule = compute_schedule(cfg, gpus=8, quiet=True)
    assert np.isnan(schedule.values['momentum']).all()
    assert 'momentum' not in format_schedule(schedule)


def test_many_groups_are_summarized(without_data):
    cfg = short_segmentation()
    multipliers = {f'backbone.stages.{s}': dict(lr_mult=0.5 ** (4 - s)) for s in range(4)}
    cfg.optim_wrapper.paramwise_cfg = dict(
        custom_keys={**multipliers, 'backbone.stem': dict(lr_mult=0.0)}
    )
    schedule = compute_schedule(cfg, gpus=8, quiet=True)
    assert [group.settings['lr'] / 2e-4 for group in schedule.groups] == pytest.approx(
        [0, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    )
    assert all(n.startswith('backbone.stem') for n in schedule.groups[0].names)
    lines = format_schedule(schedule).splitlines()
    header = next(line for line in lines if line.startswith('iteration '))
    assert 'learning rate of group 1 ' in header and 'learning rate of group 6 ' in header
    assert 'group 3' not in header


# The real thing


def test_training_uses_the_rates_that_are_shown(python, mini_data, tmp_path):
    config = tmp_path / 'config_1xb10.py'
    config.write_text(
        f"_base_ = '{CONFIGS}/mini/dmformer-nano_mini-imagenet.py'\n"
        'auto_scale_lr = dict(base_batch_size=40)\n'
        'default_hooks = dict(logger=dict(interval=1), checkpoint=None)\n'
        'val_cfg = None\nval_dataloader = None\nval_evaluator = None\n'
    )
    options = settings(
        'dmformer-nano_mini-imagenet', data_root=str(mini_data / 'imagenet'), batch_size=10,
        num_workers=0, max_epochs=3, image_size=32,
    )  # fmt: skip
    options = [o for o in options if not o.startswith(('val', 'auto_scale_lr'))]
    args = ['--auto-scale-lr', '--cfg-options', *options]
    run = python(REPOSITORY / 'tools/train.py', config, *args, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    (log,) = tmp_path.glob('work_dirs/*/*/*.log')
    assert 'The learning rate was scaled from 0.002 to 0.0005: ' in log.read_text()
    (log,) = tmp_path.glob('work_dirs/*/*/vis_data/scalars.json')
    logged = [json.loads(line)['lr'] for line in log.read_text().splitlines()]

    (dumped,) = tmp_path.glob('work_dirs/*/*.py')
    cfg = Config.fromfile(dumped)
    schedule = compute_schedule(cfg, quiet=True)
    assert (schedule.images, schedule.epoch_length, schedule.num_iterations) == (40, 4, 12)
    for rates in schedule.values['learning rate']:
        np.testing.assert_allclose(rates, logged, rtol=1e-9)

    shown = python(TOOL, config, *args, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr[-3000:]
    lines = shown.stdout.splitlines()
    assert any(line.startswith('training images   40 (counted)') for line in lines)
    assert 'global batch      10 images on 1 GPU' in lines
    assert 'iterations        4 an epoch, 12 in 3 epochs' in lines
    (last,) = (line for line in lines if line.endswith(' 0') and ' last ' in line)
    assert last.split()[:4] == ['12', '3', 'last', f'{logged[-1]:.4g}']
    assert (tmp_path / 'work_dirs/schedule/config_1xb10.png').stat().st_size > 10_000


@pytest.mark.parametrize(
    'args, sentence',
    [
        (['nowhere.py'], 'error: config file nowhere.py does not exist: check the path.'),
        ([CONFIGS / 'mini/dmformer-nano_mini-imagenet.py', '--gpus', '0'],
         'it must be a whole number of 1 or more, not 0'),
        ([CONFIGS / 'mini/dmformer-nano_mini-imagenet.py'], 'run `python demo/make_mini_data.py`'),
    ],
)  # fmt: skip
def test_tool_names_a_mistake(args, sentence, python, tmp_path):
    result = python(TOOL, *args, cwd=tmp_path)
    assert result.returncode == 2
    assert sentence in result.stderr.splitlines()[-1]
    assert 'Traceback' not in result.stderr
