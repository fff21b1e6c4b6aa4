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

from mmdmformer.deploy import networks, onnx_export, verify
from mmdmformer.engine.model import build_model
from small_settings import settings

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / 'tests/test_backbones'))
from test_contract import *  # noqa: E402, F403

MIXER = dict(type='LargeKernel', kernel_size=7)
NETWORKS = {
    'LargeKernel': dict(type='DMFormer', arch='nano', mixer=MIXER),
    'PatchFormer': dict(type='PatchFormer', arch='nano'),
}
# A mini config of each task, the folder of its data, and what makes it one short epoch.
TASKS = {
    'classification': (
        'dmformer-nano_mini-imagenet',
        'imagenet',
        dict(max_epochs=1, batch_size=20, image_size=32),
    ),
    'detection': (
        'retinanet_dmformer-nano_fpn_mini-coco',
        'coco',
        dict(max_epochs=1, batch_size=5, image_scale=(64, 64)),
    ),
    'segmentation': (
        'dmformer-nano_sem-fpn_mini-ade20k',
        'ade/ADEChallengeData2016',
        dict(max_iters=1, batch_size=4, image_scale=(64, 64)),
    ),
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
    for module in ('my_mixer', 'my_backbone'):
        importlib.import_module(module)
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
    assert {type(mixer).__name__ for mixer in mixers} == {'LargeKernel'}
    assert [mixer.depthwise.kernel_size for mixer in mixers] == [(13, 13)] * 12
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64), mode='tensor').shape == (1, 1000)


def test_config_of_the_backbone(folder):
    model = build_model(Config.fromfile(folder / 'my_detector.py')).eval()
    assert type(model.backbone) is MODELS.get('PatchFormer')
    with torch.no_grad():
        scores, _ = model(torch.rand(1, 3, 64, 64), mode='tensor')
    assert [tuple(score.shape[2:]) for score in scores] == [(s, s) for s in (8, 4, 2, 1, 1)]


@pytest.mark.parametrize('task', TASKS)
def test_it_trains_folds_and_is_exported(task, folder, python, mini_data, tmp_path):
    """In a project outside of this repository, which the mixer's file is all of."""
    stem, data, variables = TASKS[task]
    config = folder / f'my_mini_{task}.py'
    text = (folder / 'my_classifier.py').read_text()
    config.write_text(text.replace('dmformer/dmformer-s_8xb128_in1k', f'mini/{stem}'))
    options = settings(stem, data_root=f'{mini_data}/{data}', num_workers=0, **variables)
    train = [ROOT / 'tools/train.py', config.name, '--work-dir', tmp_path, '--cfg-options']
    result = python(*train, *options, 'param_scheduler=[]', cwd=folder, PYTHONPATH='.')
    assert result.returncode == 0, result.stderr[-3000:]
    (checkpoint,) = (p for p in tmp_path.glob('*_1.pth') if not p.stem.startswith('best'))
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    assert weights['backbone.stages.0.blocks.0.mixer.depthwise.weight'].shape == (16, 1, 13, 13)

    cfg = Config.fromfile(config)
    raw = dict(raw=True) if task == 'detection' else {}
    files = cfg, str(checkpoint)
    predict, folded = verify.toolbox_model(*files, **raw), networks.build_network(*files, **raw)
    assert folded.backbone.deploy and len(folded.state_dict()) < len(weights)
    onnx_export.export(folded, tmp_path / 'network.onnx')
    run = onnx_export.load(tmp_path / 'network.onnx', threads=1)
    assert len(list(verify.compare(predict, folded, run, [(64, 96), (103, 80)], [1, 2]))) == 8


def test_fold_takes_the_norms_of_the_branch():
    model = MODELS.build(NETWORKS['LargeKernel']).double().eval()
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    images = torch.rand(1, 3, 65, 64).double()
    with torch.no_grad():
        expected = model(images)
        model.switch_to_deploy()
        torch.testing.assert_close(model(images), expected)
    assert not [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
