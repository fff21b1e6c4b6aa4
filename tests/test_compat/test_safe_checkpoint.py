# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mmengine's own checkpoints load; one that would run code does not, by any way in."""

import argparse
import contextlib
import copy
import functools
import http.server
import itertools
import os
import pickle
import sys
import threading
import types
from pathlib import Path

import mmengine.runner
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, PretrainedInit
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import _load_checkpoint_with_prefix
from torch import nn
from torch.utils.data import Dataset

import mmdmformer.prepared  # noqa: F401  (guards mmengine's loader)
from mmdmformer.compat.checkpoint import CheckpointError


class Points(Dataset):
    metainfo = ConfigDict(classes=('a', 'b'), palette=np.eye(3), nested=dict(x=np.float32(1)))

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.arange(3.0) + index


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 1)

    def forward(self, *points, mode):
        return dict(loss=self.head(self.norm(torch.stack(points))).square().mean())


RUNS = itertools.count()  # runners of one name would share their history
SCHEDULES = {
    'linear': [dict(type='LinearLR', start_factor=0.1, end=2), dict(type='StepLR', step_size=1)],
    'cosine': [dict(type='CosineAnnealingLR', T_max=2), dict(type='PolyLR', end=2)],
    'one_cycle': [dict(type='OneCycleLR', eta_max=0.1, total_steps=9)],
    'plateau': [dict(type='ReduceOnPlateauLR', monitor='loss')],
}


def runner(work_dir, by_epoch=True, length=1, schedule='linear', **kwargs):
    unit = 'epochs' if by_epoch else 'iters'
    return Runner(
        Model(),
        str(work_dir),
        train_dataloader=dict(
            dataset=Points(), batch_size=2, sampler=dict(type='DefaultSampler', shuffle=True)
        ),
        train_cfg={'by_epoch': by_epoch, f'max_{unit}': length},
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1)),
        param_scheduler=[dict(by_epoch=by_epoch, **step) for step in SCHEDULES[schedule]],
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=by_epoch),
            logger=dict(type='LoggerHook', interval=1),
        ),
        custom_hooks=[dict(type='EMAHook')],
        experiment_name=f'run_{next(RUNS)}',
        log_level='ERROR',
        **kwargs,
    )


def equal(a, b):
    """Whether two nested records hold the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, HistoryBuffer):
        return all(map(equal, a.data, b.data))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


class Snapshot(Hook):
    """Keeps a copy of what training goes on from."""

    def before_train(self, runner):
        self.taken = training_state(runner)


def training_state(runner):
    return copy.deepcopy(
        dict(
            iter=runner.iter,
            model=runner.model.state_dict(),
            optimizer=runner.optim_wrapper.state_dict(),
            schedules=[schedule.state_dict() for schedule in runner.param_schedulers],
            history=dict(runner.message_hub.log_scalars),
        )
    )


@pytest.mark.parametrize(
    ('by_epoch', 'schedule'),
    [(False, 'linear'), *((True, schedule) for schedule in SCHEDULES)],
)
def test_train_then_resume_then_load(tmp_path, by_epoch, schedule):
    first = runner(tmp_path, by_epoch, length=1, schedule=schedule)
    first.train()
    file = str(tmp_path / f'{"epoch" if by_epoch else "iter"}_1.pth')

    # The file holds what it would if its code were run.
    loaded = CheckpointLoader.load_checkpoint(file, map_location='cpu', logger='silent')
    assert equal(loaded, torch.load(file, weights_only=False))
    assert isinstance(loaded['message_hub']['log_scalars']['train/loss'], HistoryBuffer)

    # Training goes on from where it ended.
    snapshot, expected = Snapshot(), training_state(first)
    again = runner(tmp_path, by_epoch, length=2, schedule=schedule, resume=True)
    again.register_hook(snapshot)
    again.train()
    assert [key for key in expected if not equal(snapshot.taken[key], expected[key])] == []
    assert again.iter == 2 * first.iter

    # The weights alone, which are the averaged ones, for another run.
    fresh = runner(tmp_path / 'fresh', by_epoch, load_from=file)
    fresh.register_hook(snapshot)
    fresh.train()
    assert snapshot.taken['iter'] == 0
    assert equal(dict(snapshot.taken['model']), dict(loaded['state_dict']))


class Payload:
    """Pickles as a call that leaves a mark on the disk."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture(params=['zip', 'legacy', 'pickle'])
def malicious(request, tmp_path):
    """A checkpoint that makes a folder when it is unpickled; and that folder."""
    file, marker = tmp_path / 'malicious.pth', tmp_path / 'marker'
    # The history comes first: it must not be taken for the offender.
    content = dict(loss=HistoryBuffer([1.0], [1]), payload=Payload(marker))
    if request.param == 'pickle':
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        content['state_dict'] = dict(weight=torch.ones(1, 3))
        torch.save(content, file, _use_new_zipfile_serialization=request.param == 'zip')
    return str(file), marker


WAYS_IN = {
    'loader': lambda file, tmp_path: CheckpointLoader.load_checkpoint(file),
    'load_checkpoint': lambda file, tmp_path: mmengine.runner.load_checkpoint(Model(), file),
    'prefix': lambda file, tmp_path: _load_checkpoint_with_prefix('head', file),
    'initializer': lambda file, tmp_path: PretrainedInit(file)(nn.Linear(3, 1)),
    'load_from': lambda file, tmp_path: runner(tmp_path, load_from=file).train(),
    'resume': lambda file, tmp_path: runner(tmp_path, load_from=file, resume=True).train(),
    'runner': lambda file, tmp_path: runner(tmp_path).load_checkpoint(file),
}


@pytest.fixture
def yacs_node(monkeypatch):
    """A class as yacs pickles it, whose module is gone when it is read."""
    module = types.ModuleType('yacs.config')
    module.CfgNode = type('CfgNode', (dict,), dict(__module__='yacs.config'))
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    return module.CfgNode


@pytest.mark.parametrize('zipped', [True, False])
def test_settings_of_other_training_codes(zipped, yacs_node, tmp_path, monkeypatch):
    node = yacs_node(MODEL=yacs_node(NAME='swin'), TRAIN=dict(EPOCHS=300))
    node.__dict__['__immutable__'] = True
    content = dict(
        state_dict=dict(weight=torch.ones(1, 3)),
        args=argparse.Namespace(
            model='swin', opt_betas=None, mean=(0.5, 0.5), out=Path('runs')
        ),  # timm's
        config=node,  # Swin's, and the ACmix authors'
    )
    file = tmp_path / 'trained.pth'
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, 'yacs.config')
    read = CheckpointLoader.load_checkpoint(str(file))
    assert read['args'] == content['args']
    assert read['config'] == dict(MODEL=dict(NAME='swin'), TRAIN=dict(EPOCHS=300))
    assert read['config'].__dict__ == dict(__immutable__=True)
    layer = nn.Linear(3, 1, bias=False)
    PretrainedInit(str(file))(layer)
    assert torch.equal(layer.weight, torch.ones(1, 3))


@pytest.mark.parametrize('way', WAYS_IN.values(), ids=WAYS_IN)
def test_code_is_refused(malicious, tmp_path, way):
    file, marker = malicious
    with pytest.raises(CheckpointError) as error:
        way(file, tmp_path)
    assert not marker.exists()
    assert str(error.value) == (
        f"Refused to load checkpoint '{file}', which would run code that it brings along (it "
        "calls for 'posix.mkdir'); use a file that holds only weights, make one with "
        'tools/model_converters/publish_model.py --allow posix.mkdir, or, if you trust whoever '
        'made it, allow what it calls for with torch.serialization.add_safe_globals.'
    )


def test_the_payload_is_no_blank(malicious):
    """It runs where nothing refuses it."""
    file, marker = malicious
    with contextlib.suppress(RuntimeError):  # torch.load finds out later that one is no checkpoint
        torch.load(file, weights_only=False)
    assert marker.exists()


@pytest.fixture
def url(malicious, tmp_path, monkeypatch):
    """The malicious checkpoint's address on a server of its own."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=tmp_path)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/malicious.pth'
        server.shutdown()


def test_code_from_a_url_is_refused(url, malicious):
    with pytest.raises(CheckpointError, match="^Refused to load checkpoint 'http://.*posix.mkdir"):
        CheckpointLoader.load_checkpoint(url)
    assert not malicious[1].exists()
    with pytest.raises(OSError, match='404'):  # not a fault of the file
        CheckpointLoader.load_checkpoint(url.replace('malicious', 'other'))


@pytest.mark.parametrize('forced', ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', None])
def test_the_environment_cannot_switch_it_off(malicious, monkeypatch, forced):
    if forced:
        monkeypatch.setenv(forced, '1')
    before = dict(os.environ), set(torch.serialization.get_safe_globals())
    with pytest.raises(CheckpointError):
        CheckpointLoader.load_checkpoint(malicious[0])
    assert not malicious[1].exists()
    assert (dict(os.environ), set(torch.serialization.get_safe_globals())) == before


def saved(tmp_path, value, **kwargs):
    torch.save(dict(meta=value), tmp_path / 'saved.pth', **kwargs)
    return str(tmp_path / 'saved.pth')


def load(file):
    return CheckpointLoader.load_checkpoint(file, logger='silent')['meta']


class Trusted:
    """A user's own class."""

    def __init__(self, x):
        self.x = x


def test_what_the_user_allows_is_allowed(tmp_path):
    file = saved(tmp_path, Trusted(3))
    with pytest.raises(CheckpointError, match=r"it calls for '\S*test_safe_checkpoint.Trusted'"):
        load(file)
    with torch.serialization.safe_globals([Trusted]):
        assert load(file).x == 3
        assert load(file).x == 3  # loading keeps what was allowed


class GetAttribute:
    """Pickles as ``getattr(owner, name)``."""

    def __init__(self, owner, name):
        self.args = owner, name

    def __reduce__(self):
        return getattr, self.args


@pytest.mark.parametrize(
    'args', [(HistoryBuffer, '__init__'), (np.ndarray, 'tofile'), (dict, 'mean')]
)
@pytest.mark.parametrize('allowed', [[], [getattr, dict]])
def test_getattr_reaches_nothing_but_mmengine_records(tmp_path, args, allowed):
    with torch.serialization.safe_globals(allowed), pytest.raises(CheckpointError, match='Refused'):
        load(saved(tmp_path, GetAttribute(*args)))


def test_torch_load_reads_mmengine_records_and_no_code(tmp_path):
    """By torch's public list; all else is torch's own decision."""
    file = saved(tmp_path, HistoryBuffer([1.0], [1]))
    assert load(file).mean() == torch.load(file)['meta'].mean() == 1
    file = saved(tmp_path, GetAttribute(dict, 'fromkeys'))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file)
    with torch.serialization.safe_globals([getattr, dict]):  # what another package allows
        assert torch.load(file)['meta'] == dict.fromkeys
    assert torch.load(file, weights_only=False)['meta'] == dict.fromkeys


@pytest.mark.parametrize('is_zip', [True, False])
@pytest.mark.parametrize(
    'value',
    [
        np.float64(0.5),
        np.int64(3),
        np.bool_(True),
        np.float16(1),
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.zeros(0),
        np.array(['ab', 'c']),
        np.array(['2026-11-01'], dtype='datetime64[D]'),
        np.dtype('float32'),
        HistoryBuffer(),
        HistoryBuffer([1.0, 2.0], [1, 1]),
        {1, 2},
        1 + 2j,
        10**30,
        ConfigDict(a=[dict(b=1)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_records_come_back_as_they_were(tmp_path, value, is_zip):
    found = load(saved(tmp_path, value, _use_new_zipfile_serialization=is_zip))
    assert type(found) is type(value)
    assert equal(found, value)


def test_numbers_from_the_other_numpy(tmp_path):
    """numpy 2 moved the functions that its pickles name."""
    file = tmp_path / 'saved.pth'
    saved(tmp_path, [np.float64(2.5), np.arange(3)], _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    for old, new in ((b'numpy._core', b'numpy.core'), (b'numpy.core', b'numpy._core')):
        file.write_bytes(content.replace(old, new))
        number, array = load(str(file))
        assert number == 2.5 and array.tolist() == [0, 1, 2]


def test_objects_in_arrays_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match='Refused'):
        load(saved(tmp_path, np.array([1, None], dtype=object)))


@pytest.mark.parametrize('is_zip', [True, False])
def test_damaged_files_are_named(tmp_path, is_zip):
    file = saved(tmp_path, [np.arange(9), torch.ones(9)], _use_new_zipfile_serialization=is_zip)
    with open(file, 'rb') as f:
        content = f.read()
    contents = [content[: int(part * len(content))] for part in np.linspace(0, 0.97, 40)]
    contents += [b'<html>404</html>', b'hello', b'version https://git-lfs.github.com/spec/v1\n']
    for damaged in contents:
        with open(file, 'wb') as f:
            f.write(damaged)
        with pytest.raises(CheckpointError) as error:
            load(file)
        message = str(error.value)
        if is_zip:  # half a name in the middle of the old format is a name that is not allowed
            assert message.startswith(f"Cannot read checkpoint '{file}' (")
            assert message.endswith(
                '); it is truncated or was not written by torch.save, so fetch or save it anew.'
            )
        assert f"checkpoint '{file}'" in message and '\n' not in message


def test_a_missing_file_is_said_to_be_missing():
    with pytest.raises(FileNotFoundError, match='nowhere.pth can not be found'):
        load('nowhere.pth')


def test_preparing_twice_changes_nothing():
    before = CheckpointLoader.load_checkpoint
    mmdmformer.prepare()
    assert CheckpointLoader.load_checkpoint == before
