# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Published checkpoints are small, complete, named by their hash, and read by everything."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import safetensors
import torch
from mmengine.config import Config

from mmdmformer import DMFormer, get_model
from mmdmformer.checkpoints import CheckpointError, fold_checkpoint, publish
from mmdmformer.checkpoints.safetensors_file import load_from_safetensors
from mmdmformer.engine.model import build_model

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / 'configs/mini/dmformer-nano_mini-imagenet.py'
CLASSES = tuple(f'digit_{i}' for i in range(10))


def weights(seed):
    torch.manual_seed(seed)
    return build_model(Config.fromfile(CONFIG)).state_dict()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A checkpoint as a run with averaged weights leaves it."""
    folder = tmp_path_factory.mktemp('run')
    averaged, plain = weights(0), weights(1)
    moments = {i: dict(exp_avg=v.float(), step=3) for i, v in enumerate(plain.values())}
    content = dict(
        meta=dict(epoch=3, cfg='model = dict()\n', dataset_meta=dict(classes=CLASSES)),
        state_dict=averaged,
        ema_state_dict=dict(steps=torch.tensor(9), **{f'module.{k}': v for k, v in plain.items()}),
        optimizer=dict(state=moments),
        message_hub=dict(log_scalars={}),
        param_schedulers=[],
    )
    torch.save(content, folder / 'epoch_3.pth')
    return folder / 'epoch_3.pth', averaged, plain


@pytest.fixture(scope='module')
def published(run, tmp_path_factory):
    return publish(str(run[0]), tmp_path_factory.mktemp('published') / 'new' / 'nano.pth', ema=True)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].equal(b[name]), name


def test_names_carry_the_hash(published):
    assert [path.suffix for path in published] == ['.pth', '.safetensors']
    for path in published:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert path.name == f'nano-{digest[:8]}{path.suffix}'


def test_only_weights_and_what_describes_them_stay(run, published):
    pth, tensors = published
    content = torch.load(pth)
    assert content.keys() == {'meta', 'state_dict'}
    assert_same(content['state_dict'], run[1])
    assert content['meta']['dataset_meta']['classes'] == CLASSES
    assert content['meta']['cfg'] == 'model = dict()\n'
    bare = sum(tensor.nbytes for tensor in run[1].values())
    for path in published:
        assert bare < path.stat().st_size < 1.1 * bare + 1e5
        assert path.stat().st_size < 0.5 * run[0].stat().st_size
    with safetensors.safe_open(tensors, 'pt') as file:
        meta = json.loads(file.metadata()['meta'])
        assert_same({name: file.get_tensor(name) for name in file.keys()}, run[1])  # noqa: SIM118
    assert meta['dataset_meta']['classes'] == list(CLASSES) and meta['epoch'] == 3


def test_plain_or_averaged_weights(run, tmp_path):
    source, averaged, plain = run
    for ema, expected in ((True, averaged), (False, plain)):
        for path in publish(str(source), tmp_path / 'w', ema):
            reads = dict.fromkeys(['.pth'], torch.load)
            read = reads.get(path.suffix, lambda p: load_from_safetensors(str(p)))
            assert_same(read(path)['state_dict'], expected)
    with pytest.raises(ValueError, match='plain and averaged weights: say --ema'):
        publish(str(source), tmp_path / 'w')
    torch.save(dict(state_dict=plain), tmp_path / 'plain.pth')
    with pytest.raises(ValueError, match='has no averaged weights: leave --ema out'):
        publish(str(tmp_path / 'plain.pth'), tmp_path / 'w', ema=True)


def test_timms_averages(tmp_path):
    content = dict(
        state_dict=dict(w=torch.ones(2)), state_dict_ema=dict(w=torch.zeros(2)), optimizer={}
    )
    torch.save(content, tmp_path / 'last.pth')
    for ema, value in ((True, 0), (False, 1)):
        path, _ = publish(str(tmp_path / 'last.pth'), tmp_path / 'w', ema)
        assert (torch.load(path)['state_dict']['w'] == value).all()


def test_the_same_content_gives_the_same_files(run, published, tmp_path):
    for _ in range(5):
        again = publish(str(run[0]), tmp_path / 'nano', ema=True)
        assert [path.name for path in again] == [path.name for path in published]


def test_the_source_is_never_overwritten(published, tmp_path):
    source = tmp_path / published[0].name
    shutil.copy(published[0], source)
    with pytest.raises(ValueError, match='is what publishing it would write: choose another name'):
        publish(str(source), tmp_path / 'nano.pth')
    assert [path.name for path in tmp_path.iterdir()] == [source.name]


def test_everything_loads_both_files(run, published, tmp_path):
    state = {n.removeprefix('backbone.'): v for n, v in run[1].items() if n.startswith('backbone.')}
    images, logits = torch.rand(1, 3, 64, 64), []
    for path in published:
        init_cfg = dict(type='CheckedPretrained', checkpoint=str(path))
        backbone = DMFormer('nano', init_cfg=init_cfg)
        backbone.init_weights()
        assert_same(backbone.state_dict(), state)
        model = get_model('dmformer_nano', pretrained=path, num_classes=10).eval()
        logits.append(model(images))
        out = tmp_path / f'{path.suffix[1:]}-folded.pth'
        fold_checkpoint(build_model(Config.fromfile(CONFIG)), str(path), out)
        folded = get_model('dmformer_nano', pretrained=out, num_classes=10, deploy=True).eval()
        torch.testing.assert_close(folded(images), logits[-1], rtol=1e-4, atol=1e-4)
    assert torch.equal(*logits)


def test_the_test_entry_loads_both_files(published, python, mini_data, tmp_path):
    (tmp_path / 'data').symlink_to(mini_data.parent)
    scores = []
    for path in published:
        result = python(ROOT / 'tools/test.py', CONFIG, path, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        scores.append(result.stdout.split('accuracy/top1:')[1].split()[0])
    assert scores[0] == scores[1]


def test_damaged_and_missing_files(published, tmp_path):
    data = published[1].read_bytes()
    for name, content in (('cut', data[: len(data) // 2]), ('empty', b''), ('text', b'weights')):
        path = tmp_path / f'{name}.safetensors'
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f'Cannot read checkpoint .*{name}.safetensors'):
            get_model('dmformer_nano', pretrained=path, num_classes=10)
    with pytest.raises(FileNotFoundError):
        get_model('dmformer_nano', pretrained=tmp_path / 'none.safetensors')


def test_tool(run, python, tmp_path):
    tool = ROOT / 'tools/model_converters/publish_model.py'
    result = python(tool, run[0], 'nano.pth', '--ema', cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob('nano-*.pth'))) == len(list(tmp_path.glob('nano-*.safe*'))) == 1
    result = python(tool, run[0], 'nano.pth', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f'error: {run[0]}: the checkpoint has plain and averaged')


class Settings(dict):
    """Of a training script, which is not here when its checkpoint is read."""

    def __setstate__(self, state):
        raise AssertionError('this is the code that must not run')


def test_tool_reads_allowed_classes_as_records(python, tmp_path):
    settings = Settings(lr=1)
    settings.frozen = True
    torch.save(dict(state_dict=dict(w=torch.ones(2)), args=settings), tmp_path / 'run.pth')
    tool = ROOT / 'tools/model_converters/publish_model.py'
    result = python(tool, 'run.pth', 'w.pth', cwd=tmp_path)
    assert result.returncode == 2
    name = f'{__name__}.Settings'
    assert f"(it calls for '{name}')" in result.stderr
    assert f'publish_model.py --allow {name}, or' in result.stderr
    result = python(tool, 'run.pth', 'w.pth', '--allow', name, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (published,) = tmp_path.glob('w-*.pth')
    assert torch.load(published)['state_dict']['w'].tolist() == [1, 1]
