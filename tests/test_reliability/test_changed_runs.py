# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A run goes on whatever has changed since it was interrupted, and says where."""

import json
import multiprocessing
import os
from contextlib import suppress

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, RandomSampler

from mmdmformer.engine import ResumableIterLoop  # noqa: F401  (registers)
from mmdmformer.engine.errors import UsageError

IMAGES = 24


class Numbers(Dataset):
    """Each sample is its index."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return self.images

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([float(index)]))


class Unordered(RandomSampler):
    """torch's, which knows no epoch."""

    def __init__(self, dataset, seed=None):
        super().__init__(dataset)


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))

    def forward(self, inputs, mode='loss'):
        return dict(loss=self.layers(torch.stack(inputs) / IMAGES).square().mean())


class Recorder(Hook):
    """The samples and the learning rate of each step."""

    def __init__(self):
        self.samples, self.rates = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.samples.append([int(x) for x in data_batch['inputs']])
        self.rates.append(runner.optim_wrapper.get_lr()['lr'])  # of each parameter


def train(
    folder,
    length,
    batch=4,
    images=IMAGES,
    resume=False,
    stop=None,
    by_epoch=True,
    accumulate=1,
    launcher='none',
    sampler=None,
    schedule=None,
):
    """Train, and tell samples and rates of the steps, and the log."""
    torch.manual_seed(0)  # of the first weights
    recorder = Recorder()
    loop, unit = ('Epoch', 'epochs') if by_epoch else ('Iter', 'iters')
    sampler = sampler or dict(
        type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True
    )
    dataset = Numbers(images)
    if 'MultiSource' in str(sampler['type']):
        dataset = ConcatDataset([dataset, Numbers(images)])
    runner = Runner(
        Model(),
        str(folder),
        train_dataloader=dict(
            dataset=dataset, batch_size=batch, num_workers=0, sampler=sampler,
        ),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1),
            accumulative_counts=accumulate,
            paramwise_cfg=dict(custom_keys=dict(bias=dict(lr_mult=0.5))),
        ),
        param_scheduler=schedule or dict(
            type='CosineAnnealingLR', T_max=length, by_epoch=by_epoch,
            convert_to_iter_based=by_epoch,
        ),
        train_cfg=dict(type=f'Resumable{loop}Loop', **{f'max_{unit}': length}),
        default_hooks=dict(
            checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, interval=1),
            resume=dict(type='ResumeHook'),
        ),
        custom_hooks=[recorder, *([] if stop is None else [Stop(stop)])],
        randomness=dict(seed=5),
        resume=resume,
        launcher=launcher,
        cfg=dict(model_wrapper_cfg=dict(type='CPUReadyDistributedDataParallel')),
        experiment_name='_'.join(
            [*folder.parts[1:], *map(str, (resume, length, batch, stop, accumulate))]
        ),
    )  # fmt: skip
    with suppress(InterruptedError):
        runner.train()
    log = max(folder.glob('*/*.log'), key=lambda path: path.stat().st_mtime_ns)
    return recorder.samples, recorder.rates, log.read_text()


class Stop(Hook):
    """Ends after a number of steps, once they are saved."""

    priority = 'LOWEST'

    def __init__(self, steps):
        self.steps = steps

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.steps:
            raise InterruptedError


@pytest.mark.parametrize('by_epoch', [True, False])
@pytest.mark.parametrize('batch', [3, 5, 8])
def test_another_batch_size_goes_on_at_the_sample(batch, by_epoch, tmp_path):
    length = 2 if by_epoch else 12
    whole, _, _ = train(tmp_path / 'whole', length, by_epoch=by_epoch)
    first, _, _ = train(tmp_path / 'run', length, stop=3, by_epoch=by_epoch)
    rest, _, log = train(tmp_path / 'run', length, batch, resume=True, by_epoch=by_epoch)
    assert first == whole[:3]
    samples = np.concatenate(first + rest).tolist()
    expected = np.concatenate(whole).tolist()
    if by_epoch:
        assert samples == expected
    else:
        assert samples[: len(expected)] == expected[: len(samples)]
    assert 'at the sample where it stopped' in log
    again, _, _ = train(tmp_path / 'run', length, batch, resume=True, by_epoch=by_epoch)
    assert again == []


@pytest.mark.parametrize('batch, images', [(16, 24), (64, 24), (100, 24), (4, 48), (4, 10)])
def test_after_an_epoch_every_later_sample_is_trained_on(batch, images, tmp_path):
    train(tmp_path, 1)
    rest, _, log = train(tmp_path, 3, batch, images, resume=True)
    for epoch in range(2):
        steps = -(-images // batch)
        samples = np.concatenate(rest[epoch * steps : (epoch + 1) * steps])
        assert sorted(samples) == list(range(images))
    assert len(rest) == 2 * steps
    assert 'it goes on at the beginning of epoch 2.' in log


def test_within_an_epoch_other_images_begin_the_next(tmp_path):
    train(tmp_path, 3, stop=2)
    rest, _, log = train(tmp_path, 3, images=12, resume=True)
    assert len(rest) == 2 * 3
    assert 'it goes on at the beginning of epoch 2.' in log


def test_within_the_last_epoch_other_images_begin_it_again(tmp_path):
    train(tmp_path, 1, stop=2)
    rest, _, log = train(tmp_path, 1, images=12, resume=True)
    assert len(rest) == 3
    assert 'it goes on at the beginning of epoch 1.' in log


@pytest.mark.parametrize('by_epoch', [True, False])
def test_more_epochs_follow_the_schedule_of_the_config(by_epoch, tmp_path):
    short, long = (2, 4) if by_epoch else (12, 24)
    _, whole, _ = train(tmp_path / 'whole', long, by_epoch=by_epoch)
    train(tmp_path / 'run', short, by_epoch=by_epoch)
    _, rates, log = train(tmp_path / 'run', long, resume=True, by_epoch=by_epoch)
    np.testing.assert_allclose(rates, whole[12:], rtol=1e-12)
    assert 'the learning rate follows that of the config now' in log
    assert logged_base_rate(tmp_path / 'run') == pytest.approx(
        logged_base_rate(tmp_path / 'whole'), rel=1e-9
    )


def logged_base_rate(folder):
    """That of the newest record, of the rate before factors for single parameters."""
    file = max(folder.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime_ns)
    return [json.loads(line)['base_lr'] for line in file.read_text().splitlines()][-1]


def test_plain_mmengine_hands_over_and_takes_over(tmp_path):
    """Its checkpoints know nothing of batches."""
    train(tmp_path, 1)
    path = tmp_path / 'iter_6.pth'
    content = torch.load(path, weights_only=False)
    del content['message_hub']['runtime_info']['data_layout']
    torch.save(content, path)
    rest, _, log = train(tmp_path, 2, batch=8, resume=True)
    assert [len(batch) for batch in rest] == [8, 8, 8]


def weights(folder, iteration):
    return torch.load(folder / f'iter_{iteration}.pth', weights_only=False)['state_dict']


def accumulated(model, samples, rates, start, total, accumulate):
    """Train by the formula, on from a step, in windows that end at multiples, and the last early.

    A window's gradient is the mean of those of its batches.
    """
    rest = total % accumulate
    for count, (batch, rate) in enumerate(zip(samples, rates, strict=True), start + 1):
        inputs = [torch.tensor([float(index)]) for index in batch]
        size = accumulate if count <= total - rest else rest
        (model(inputs)['loss'] / size).backward()
        if count % accumulate == 0 or count == total:
            for parameter, lr in zip(model.parameters(), rate, strict=True):
                parameter.data -= lr * parameter.grad
                parameter.grad = None
    return model.state_dict()


@pytest.mark.parametrize(
    ('stop', 'before', 'now', 'batch', 'start', 'total'),
    [
        (4, 1, 2, 4, 4, 12),
        (4, 2, 1, 4, 4, 12),
        (3, 1, 3, 4, 3, 12),
        (5, 1, 5, 4, 5, 12),  # the last window has 2 batches
        (6, 2, 2, 16, 2, 4),  # further than all that is left to count
        (6, 2, 4, 2, 12, 24),
    ],
)
def test_another_accumulation_updates_by_its_formula(
    stop, before, now, batch, start, total, tmp_path
):
    whole, _, _ = train(tmp_path / 'whole', 2)
    run = tmp_path / 'run'
    first, _, _ = train(run, 2, stop=stop, accumulate=before)
    rest, rates, _ = train(run, 2, batch, resume=True, accumulate=now)
    assert np.concatenate(first + rest).tolist() == np.concatenate(whole).tolist()
    model = Model()
    model.load_state_dict(weights(run, stop))
    expected = accumulated(model, rest, rates, start, total, now)
    torch.testing.assert_close(weights(run, total), expected)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_within_a_window_its_gradient_goes_on_unless_windows_change(by_epoch, tmp_path):
    length = 2 if by_epoch else 12
    options = dict(length=length, by_epoch=by_epoch, accumulate=5)
    train(tmp_path / 'whole', **options)
    train(tmp_path / 'run', stop=7, **options)
    _, _, log = train(tmp_path / 'run', resume=True, **options)
    assert 'so that none is lost' in log
    torch.testing.assert_close(
        weights(tmp_path / 'run', 12), weights(tmp_path / 'whole', 12), rtol=0, atol=0
    )
    train(tmp_path / 'other', stop=7, **options)
    _, _, log = train(tmp_path / 'other', resume=True, **options | dict(accumulate=3))
    assert 'is lost, as other windows are counted from iteration 8 on.' in log


def train_in_process(rank, processes, folder, arguments):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
    meeting = f'file://{folder}/meeting'
    torch.distributed.init_process_group('gloo', meeting, rank=rank, world_size=processes)
    return train(folder, launcher='pytorch', **arguments)


def train_together(processes, folder, **arguments):
    """The samples of each step, as the processes share them out, and the log."""
    if processes == 1:
        results = [train(folder, **arguments)]
    else:
        folder.mkdir(exist_ok=True)
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload(['mmdmformer', 'torch.distributed.fsdp', 'mmengine.runner'])
        jobs = [(rank, processes, folder, arguments) for rank in range(processes)]
        with context.Pool(processes) as pool:
            results = pool.starmap(train_in_process, jobs, chunksize=1)
    steps = zip(*(samples for samples, _, _ in results), strict=True)
    return [np.transpose(step).ravel().tolist() for step in steps], results[0][2]


@pytest.mark.parametrize(
    ('before', 'now', 'batch', 'stop', 'by_epoch'),
    [
        (1, 2, 2, 3, True),
        (2, 1, 4, 3, False),
        pytest.param(1, 2, 4, 3, False, marks=pytest.mark.long),
        pytest.param(2, 1, 8, 4, True, marks=pytest.mark.long),
    ],
)
def test_another_number_of_processes_goes_on_at_the_sample(
    before, now, batch, stop, by_epoch, tmp_path
):
    length = 2 if by_epoch else 12
    options = dict(length=length, by_epoch=by_epoch)
    whole, _, _ = train(tmp_path / 'whole', **options)
    run = tmp_path / 'run'
    first, _ = train_together(before, run, batch=4 // before, stop=stop, **options)
    rest, log = train_together(now, run, batch=batch, resume=True, **options)
    assert first == whole[:stop]
    samples, expected = np.concatenate(first + rest).tolist(), np.concatenate(whole).tolist()
    assert len(samples) == len(expected) or not by_epoch
    assert samples[: len(expected)] == expected[: len(samples)]
    if batch * now == 4:  # in the same batches, and so to the same weights
        torch.testing.assert_close(weights(run, 12), weights(tmp_path / 'whole', 12))
    else:
        assert 'at the sample where it stopped' in log


def test_a_sampler_that_cannot_go_on_is_named(tmp_path):
    samplers = pytest.importorskip('mmdet.datasets.samplers')
    several = dict(type=samplers.MultiSourceSampler, batch_size=4, source_ratio=[1, 3], seed=5)
    for sampler, by_epoch, named in (
        (several, False, True),
        (dict(type=Unordered), True, True),
        (None, False, False),
        (None, True, False),
    ):
        folder = tmp_path / f'{sampler and sampler["type"].__name__}{by_epoch}'
        length = 3 if by_epoch else 9
        options = dict(by_epoch=by_epoch, sampler=sampler)
        train(folder, length, stop=7, **options)
        _, _, log = train(folder, length, resume=True, **options)
        name = sampler['type'].__name__ if sampler else ''
        expected = f'{name} cannot go on in the middle: the run goes on after iteration 7 with'
        assert (expected in log) == named


def test_schedule_of_epochs_is_refused_where_iterations_count(tmp_path):
    """mmengine leaves the rate as it is, to the last iteration."""
    schedule = dict(type='PolyLR', by_epoch=True, begin=0, end=3)
    with pytest.raises(UsageError, match='PolyLR of param_scheduler .* set by_epoch=False'):
        train(tmp_path / 'run', 3, by_epoch=False, schedule=schedule)
    _, rates, _ = train(tmp_path / 'epochs', 3, schedule=schedule)
    assert rates[0] == rates[5] != rates[6]
