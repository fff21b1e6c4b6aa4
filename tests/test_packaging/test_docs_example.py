# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The worked example of docs/add_a_mixer.md does what the page says."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmdmformer.engine.model import build_model

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / 'tests/test_backbones'))
from test_contract import *  # noqa: E402, F403

NETWORKS = {
    'LargeKernelFormer': dict(type='LargeKernelFormer', arch='nano', mixer_kernel_size=7),
    'LargeKernelNet': dict(type='LargeKernelNet', arch='nano'),
}
pytestmark = []  # not the contract's, but:


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def cfg(request):
    """The networks that the tests of the contract are run on."""
    return request.param


@pytest.fixture(scope='module', autouse=True)
def folder(tmp_path_factory):
    """A folder with the files of the page, where Python finds them."""
    folder = tmp_path_factory.mktemp('example')
    page = (ROOT / 'docs/add_a_mixer.md').read_text()
    for name, text in re.findall(r'^```python\n# (\w+\.py)\n(.*?)^```', page, re.M | re.S):
        with (folder / name).open('a') as file:
            file.write(text)
    (folder / 'checkout').symlink_to(ROOT)
    sys.path.append(str(folder))
    importlib.import_module('my_networks')
    yield folder
    sys.path.remove(str(folder))


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg'])
def test_found_from_every_toolbox(cfg, scope):
    """By the name alone: the prefix ``mmdmformer.`` is for the networks of this package."""
    registry = importlib.import_module(f'{scope}.registry').MODELS
    assert type(registry.build(cfg)) is MODELS.get(cfg['type'])


def test_config_of_the_mixer(folder):
    model = build_model(Config.fromfile(folder / 'my_classifier.py')).eval()
    mixers = [block.mixer for stage in model.backbone.stages for block in stage.blocks]
    assert {type(mixer).__name__ for mixer in mixers} == {'LargeKernelMixer'}
    assert [mixer.depthwise.kernel_size for mixer in mixers] == [(13, 13)] * 12
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64), mode='tensor').shape == (1, 1000)


def test_config_of_the_backbone(folder):
    model = build_model(Config.fromfile(folder / 'my_detector.py')).eval()
    assert type(model.backbone) is MODELS.get('LargeKernelNet')
    with torch.no_grad():
        scores, _ = model(torch.rand(1, 3, 64, 64), mode='tensor')
    assert [tuple(score.shape[2:]) for score in scores] == [(s, s) for s in (8, 4, 2, 1, 1)]


def test_there_is_no_folded_form():
    with pytest.raises(ValueError, match='no folded form: leave deploy out'):
        MODELS.build(dict(NETWORKS['LargeKernelFormer'], deploy=True))
    with pytest.raises(ValueError, match='no folded form'):
        MODELS.build(NETWORKS['LargeKernelFormer']).eval().switch_to_deploy()


def test_it_trains(folder, python, mini_data):
    text = (folder / 'my_classifier.py').read_text()
    config = folder / 'my_mini_classifier.py'
    text = text.replace('dmformer/dmformer-s_8xb128_in1k', 'mini/dmformer-nano_mini-imagenet')
    config.write_text(text)
    options = [
        f'data_root={mini_data}/imagenet',
        'max_epochs=1',
        'warmup_epochs=0',
        'image_size=32',
    ]
    options += ['num_workers=0', 'batch_size=20', 'param_scheduler=[]']
    train = [ROOT / 'tools/train.py', config.name, '--cfg-options', *options]
    result = python(*train, cwd=folder, PYTHONPATH='.')
    assert result.returncode == 0, result.stderr[-3000:]
    weights = torch.load(folder / 'work_dirs/my_mini_classifier/epoch_1.pth', weights_only=False)
    assert 'backbone.stages.0.blocks.0.mixer.depthwise.weight' in weights['state_dict']
