# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The toolboxes' own packaged tools, which know of this package by a config's ``custom_imports``.

They train stock configs with its backbone, written outside the repository, and test its configs.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

import mmdmformer
from faults import hostile_files
from mmdmformer.engine.model import save_untrained

MINI = Path(__file__).parents[2] / 'configs/mini'
TOOLBOXES = ('mmpretrain', 'mmdet', 'mmseg')


def packaged(toolbox, path):
    """A file that a toolbox brings in its wheel."""
    return Path(importlib.util.find_spec(toolbox).origin).parent / '.mim' / path


PLUGIN = "custom_imports = dict(imports=['mmdmformer'])\n"
TWO_IMAGES = """
train_dataloader['num_workers'] = 0
train_dataloader['persistent_workers'] = False
val_cfg = val_dataloader = val_evaluator = test_cfg = test_dataloader = test_evaluator = None
default_hooks = dict(logger=dict(interval=1))
"""

CLASSIFIER = """
_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
model = dict(
    backbone=dict(_delete_=True, type='{backbone}', arch='nano'),
    head=dict(in_channels=128))
train_dataloader = dict(batch_size=1, dataset=dict(
    data_root='{data}/imagenet', indices=[0, 39],
    metainfo=dict(classes=['digit_%d' % i for i in range(10)])))
train_cfg = dict(max_epochs=1)
"""

DETECTOR = """
_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(_delete_=True, type='{backbone}', arch='nano', out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[16, 32, 80, 128], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=64, num_classes=10)))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(128, 128)),
    dict(type='PackDetInputs')]
train_dataloader = dict(batch_size=1, dataset=dict(
    data_root='{data}/coco/', indices=2, pipeline=train_pipeline,
    metainfo=dict(classes=['digit_%d' % i for i in range(10)])))
train_cfg = dict(max_epochs=1)
"""

# In the forks' mmengine `mmseg::` does not find mmseg, and so this config names its files.
SEGMENTOR = """
_base_ = ['{stock}/models/pspnet_r50-d8.py', '{stock}/datasets/ade20k.py',
          '{stock}/default_runtime.py', '{stock}/schedules/schedule_20k.py']
crop_size = (64, 64)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=crop_size),
    backbone=dict(_delete_=True, type='{backbone}', arch='nano', out_indices=(2, 3)),
    decode_head=dict(in_channels=128, in_index=1, channels=32, num_classes=11),
    auxiliary_head=dict(in_channels=80, in_index=0, channels=32, num_classes=11))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='PackSegInputs')]
train_dataloader = dict(batch_size=2, dataset=dict(
    _delete_=True, type='BaseSegDataset', data_root='{data}/ade/ADEChallengeData2016',
    data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
    reduce_zero_label=True, metainfo=dict(classes=[str(i) for i in range(11)]),
    pipeline=train_pipeline))
train_cfg = dict(max_iters=1)
"""
CONFIGS = dict(mmpretrain=CLASSIFIER, mmdet=DETECTOR, mmseg=SEGMENTOR)


def write_config(folder, toolbox, data, backbone, plugin=PLUGIN):
    stock = packaged('mmseg', 'configs/_base_')
    text = CONFIGS[toolbox].format(data=data, backbone=backbone, stock=stock)
    (folder / 'config.py').write_text(plugin + text + TWO_IMAGES)


def assert_trained(folder):
    (checkpoint,) = folder.glob('work/*.pth')
    weights = torch.load(checkpoint, weights_only=False)['state_dict']
    backbone = mmdmformer.DMFormer('nano').state_dict(prefix='backbone.')
    assert {name for name in weights if name.startswith('backbone.')} == backbone.keys()
    (log,) = folder.glob('work/*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in log.read_text().splitlines()]
    assert losses and all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(
    'toolbox, backbone',
    [('mmpretrain', 'DMFormer'), ('mmdet', 'DMFormer'), ('mmseg', 'mmdmformer.DMFormer')],
)
def test_stock_tool_trains_a_stock_config(toolbox, backbone, bare_python, mini_data, tmp_path):
    write_config(tmp_path, toolbox, mini_data, backbone)
    train = packaged(toolbox, 'tools/train.py')
    result = bare_python(train, 'config.py', '--work-dir', 'work', cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_trained(tmp_path)


def test_our_entry_trains_a_stock_config(bare_python, mini_data, tmp_path):
    """It has imported the package by then, so that the config need not."""
    write_config(tmp_path, 'mmdet', mini_data, 'DMFormer', plugin='')
    args = ['config.py', '--work-dir', 'work']
    result = bare_python('mmdmformer.train', *args, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_trained(tmp_path)


@pytest.mark.parametrize('name', ['DMFormer', 'mmdmformer.DMFormer'])
@pytest.mark.parametrize('toolbox', TOOLBOXES)
def test_both_names_build_in_every_scope(toolbox, name):
    models = importlib.import_module(f'{toolbox}.registry').MODELS
    with DefaultScope.overwrite_default_scope(toolbox):
        for registry in (models, MODELS):
            assert type(registry.build(dict(type=name, arch='nano'))) is mmdmformer.DMFormer


# mmdet's own tools/test.py imports mmcv's operators before it reads a config.
IMPORTED_FIRST = "import mmdmformer, runpy; runpy.run_path({!r}, run_name='__main__')"
OUR_CONFIGS = dict(
    mmpretrain='dmformer-nano_mini-imagenet',
    mmdet='retinanet_dmformer-nano_fpn_mini-coco',
    mmseg='dmformer-nano_sem-fpn_mini-ade20k',
)


@pytest.mark.parametrize('toolbox', TOOLBOXES)
def test_stock_tool_tests_our_config_and_refuses_code(toolbox, bare_python, mini_data, tmp_path):
    tool, config = packaged(toolbox, 'tools/test.py'), MINI / f'{OUR_CONFIGS[toolbox]}.py'
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/mini').symlink_to(mini_data)
    save_untrained(config, tmp_path / 'good.pth')
    content = torch.load(tmp_path / 'good.pth')
    torch.save(content | dict(meta=hostile_files.Payload(os.mkdir, 'mark')), tmp_path / 'bad.pth')

    def run(checkpoint):
        args = [str(config), checkpoint, '--work-dir', 'work']
        if toolbox != 'mmdet':
            return bare_python(tool, *args, cwd=tmp_path)
        command = [sys.executable, '-c', IMPORTED_FIRST.format(str(tool)), *args]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    result = run('good.pth')
    assert result.returncode == 0, result.stderr[-3000:]
    result = run('bad.pth')
    assert "CheckpointError: Refused to load checkpoint 'bad.pth', which would run code" in (
        result.stderr
    )
    assert result.returncode == 1 and not (tmp_path / 'mark').exists()


def test_stock_tool_trains_from_no_code(bare_python, mini_data, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/mini').symlink_to(mini_data)
    torch.save(
        dict(state_dict={}, meta=hostile_files.Payload(os.mkdir, 'mark')), tmp_path / 'bad.pth'
    )
    config = MINI / f'{OUR_CONFIGS["mmpretrain"]}.py'
    options = ['--work-dir', 'work', '--cfg-options', 'load_from=bad.pth']
    result = bare_python(packaged('mmpretrain', 'tools/train.py'), config, *options, cwd=tmp_path)
    assert "Refused to load checkpoint 'bad.pth', which would run code" in result.stderr
    assert result.returncode == 1 and not (tmp_path / 'mark').exists()
