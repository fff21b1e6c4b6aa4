# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Losses, gradients and weights that are not finite."""

import math

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from faults.training import spoil_gradients
from mmdmformer.checkpoints import find_checkpoint
from mmdmformer.engine.hooks.non_finite import NonFiniteError, first_non_finite_layer

BATCHES, BATCH = 6, 2


class Data(torch.utils.data.Dataset):
    """Twelve vectors, in order; one of batch 3 (from 0) is as bad as it is asked for."""

    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return BATCHES * BATCH

    def __getitem__(self, index):
        value = self.bad if index in self.indices() else float(index)
        sample = BaseDataElement(metainfo=dict(img_path=f'image_{index}.png'))
        return dict(inputs=torch.full((3,), value), data_samples=sample)

    def indices(self):
        return (7,) if self.bad is not None else ()


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, eps=1.0)
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 1)

    def forward(self, inputs, data_samples=None, mode='loss'):
        x = torch.stack(inputs) if isinstance(inputs, (list, tuple)) else inputs
        return dict(loss=self.second(self.first(self.norm(x))).square().mean())


class Recorder(Hook):
    """The weights after each iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.states = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        state = runner.model.state_dict()
        self.states.append({name: value.clone() for name, value in state.items()})


def train(folder, bad, optim_wrapper=None, **non_finite):
    torch.manual_seed(0)
    recorder = Recorder()
    runner = Runner(
        Model(),
        str(folder),
        train_dataloader=dict(
            dataset=Data(bad), batch_size=BATCH, num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        optim_wrapper=optim_wrapper
        or dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1)),
        train_cfg=dict(by_epoch=False, max_iters=BATCHES),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
            non_finite=dict(type='NonFiniteHook', **non_finite),
        ),
        custom_hooks=[recorder],
        experiment_name=str(folder).replace('/', '_'),
    )  # fmt: skip
    try:
        runner.train()
        message = None
    except NonFiniteError as error:
        message = str(error)
    (log,) = folder.glob('*/*.log')
    return recorder.states, message, log.read_text()


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_good_run_is_not_touched(tmp_path):
    states, message, log = train(tmp_path, None)
    assert (len(states), message) == (BATCHES, None)
    assert 'not finite' not in log


def test_run_stops_with_the_names_and_keeps_its_checkpoint(tmp_path):
    states, message, _ = train(tmp_path, math.nan)
    assert len(states) == 3
    assert message == (
        'the loss of iteration 4 is not finite (loss = nan); its images are image_6.png, '
        'image_7.png: lower the learning rate, look at the images, or train past such batches '
        "with action='skip' of NonFiniteHook. Weights and checkpoints are unharmed."
    )
    assert find_checkpoint(tmp_path).name == 'iter_3.pth'


def test_layer_is_named_on_request(tmp_path):
    _, message, _ = train(tmp_path, math.inf, find_layer=True)
    assert (
        'the first output that is not finite is that of norm (BatchNorm1d), whose input is not '
        'either' in message
    )


def test_skipped_batch_leaves_no_trace(tmp_path):
    states, message, log = train(tmp_path, math.nan, action='skip')
    assert (len(states), message) == (BATCHES, None)
    assert equal(states[3], states[2]) and not equal(states[4], states[3])
    assert all(value.isfinite().all() for value in states[-1].values())
    assert 'Left out a step: the loss of iteration 4 is not finite' in log
    assert 'image_7.png' in log


def test_bad_batches_in_a_row_stop_the_run_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(Data, 'indices', lambda self: range(4, 99))
    states, message, _ = train(tmp_path, math.nan, action='skip', limit=3)
    assert len(states) == 4
    assert 'iteration 5 is not finite' in message and 'training has diverged' in message


@pytest.fixture
def infinite_slope(monkeypatch):
    """A finite loss, one of whose gradients is not: the slope of the root at 0."""

    def forward(self, inputs, data_samples=None, mode='loss'):
        x = torch.stack(inputs) if isinstance(inputs, (list, tuple)) else inputs
        root = (x[:, 0] * self.first.weight[0, 0] * 0).abs().sum().sqrt()
        return dict(loss=self.second(self.first(x)).square().mean() + root)

    monkeypatch.setattr(Model, 'forward', forward)


def test_gradients_that_are_not_finite_are_left_out(tmp_path, infinite_slope):
    states, message, _ = train(tmp_path, None, find_layer=True)
    assert states == []
    assert 'the gradients of iteration 1 are not finite, though the loss is' in message
    assert 'every output is finite, but 1 gradients are not, the first of them first.weight' in (
        message
    )


@pytest.mark.parametrize('name', ['first.weight', 'norm.running_mean'])
def test_weights_that_are_not_finite_are_never_saved(name, tmp_path, monkeypatch):
    class Spoiler(Recorder):
        priority = 'NORMAL'

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            super().after_train_iter(runner, batch_idx)
            if runner.iter == 3:
                runner.model.state_dict()[name].view(-1)[0] = math.nan

    monkeypatch.setitem(globals(), 'Recorder', Spoiler)
    states, message, _ = train(tmp_path, None)
    assert len(states) == 4
    assert message.startswith(f'1 tensors of the model are not finite after iteration 4, {name}')
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == [f'iter_{i}.pth' for i in (1, 2, 3)]


class ScaledWrapper(OptimWrapper):
    """mmengine's wrapper for mixed precision asks for a GPU; torch's loss scaler does not."""

    def __init__(self, init_scale, **kwargs):
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=init_scale)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()


def scaled(init_scale):
    from mmengine.registry import OPTIM_WRAPPERS

    OPTIM_WRAPPERS.register_module(module=ScaledWrapper, force=True)
    return dict(type='ScaledWrapper', init_scale=init_scale, optimizer=dict(type='AdamW', lr=0.01))


def test_overflow_of_the_loss_scale_is_no_divergence(tmp_path, monkeypatch):
    forward = Model.forward
    monkeypatch.setattr(
        Model, 'forward', lambda *args, **kw: dict(loss=forward(*args, **kw)['loss'] * 100)
    )
    # The largest number of float32 is 2 ** 128: some steps overflow until the scale has halved.
    states, message, log = train(tmp_path, None, scaled(2.0**127))
    assert (len(states), message) == (BATCHES, None)
    torch.manual_seed(0)
    assert torch.equal(states[0]['first.weight'], Model().first.weight)
    assert 'Iteration 1: gradients overflowed in mixed precision, while the loss is finite' in log
    assert 'Left out' not in log


def test_bad_loss_in_mixed_precision_is_divergence(tmp_path):
    states, message, _ = train(tmp_path, math.nan, scaled(1024.0))
    assert len(states) == 3
    assert message.startswith('the loss of iteration 4 is not finite (loss = nan)')


def test_overflow_at_a_small_scale_is_divergence(tmp_path, infinite_slope):
    states, message, _ = train(tmp_path, None, scaled(1.0))
    assert states == []
    assert message.startswith('gradients overflow in mixed precision even at the loss scale 0.5;')


def test_layer_of_a_bad_parameter_is_the_parameter():
    model = Model()
    model.second.bias.data[0] = math.inf
    batch = dict(inputs=[torch.ones(3), torch.zeros(3)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert first_non_finite_layer(model, batch) == 'the parameter second.bias is not finite'
    model.second.bias.data[0] = 0
    assert first_non_finite_layer(model, batch) is None
    before['second.bias'][0] = 0
    assert equal(before, model.state_dict())


@pytest.mark.long
def test_training_of_a_toolbox_stops_or_skips_with_the_names(tmp_path):
    outcome = spoil_gradients(2, tmp_path, 2)
    assert outcome.failures == []
    assert outcome.counts == {
        'stopped with the names of the images': 1,
        'ended with the state of an undisturbed run': 1,
        'the batch was named and left out, and the run went on to its end': 1,
    }
