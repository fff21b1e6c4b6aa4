# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Every tool that takes a config takes one in pure Python: classes as types, and ``read_base``."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = """
from mmcv.transforms import LoadImageFromFile, RandomFlip, Resize
from mmengine.dataset import DefaultSampler, default_collate
from mmpretrain.datasets import ImageNet, PackInputs
from mmpretrain.evaluation import Accuracy
from mmpretrain.visualization import UniversalVisualizer

metainfo = dict(classes=[f'digit_{{i}}' for i in range(10)])
resize = dict(type=Resize, scale=(32, 32))
pipeline = [dict(type=LoadImageFromFile), resize, dict(type=PackInputs)]
train_dataloader = dict(
    batch_size=10, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=ImageNet, data_root={data!r}, split='train', metainfo=metainfo, pipeline=pipeline,
    ),
)
val_dataloader = dict(
    batch_size=10, num_workers=0, sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=ImageNet, data_root={data!r}, split='val', metainfo=metainfo, pipeline=pipeline,
    ),
)
val_evaluator = dict(type=Accuracy)
visualizer = dict(type=UniversalVisualizer)
"""
CONFIG = """
from mmengine.config import read_base

with read_base():
    from .data import *

from mmengine.optim import LinearLR, OptimWrapper
from mmpretrain.models import (
    AverageClsScoreTTA, CrossEntropyLoss, GlobalAveragePooling, ImageClassifier, LinearClsHead,
)
from mmcv.transforms import TestTimeAug
from torch.optim import SGD

from mmdmformer import DMFormer
from mmdmformer.engine import NonFiniteHook, ResumableEpochLoop, SafeCheckpointHook

default_scope = {scope!r}
model = dict(
    type=ImageClassifier,
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=DMFormer, arch='nano'),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=10, in_channels=128,
              loss=dict(type=CrossEntropyLoss)),
)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.1))
param_scheduler = [dict(type=LinearLR, start_factor=0.5, begin=0, end=3, by_epoch=False)]
train_cfg = dict(type=ResumableEpochLoop, max_epochs=1)
val_cfg = dict()
test_dataloader, test_evaluator, test_cfg = val_dataloader, val_evaluator, val_cfg
auto_scale_lr = dict(base_batch_size=20)
default_hooks = dict(checkpoint=dict(type=SafeCheckpointHook, save_best='auto'))
custom_hooks = [dict(type=NonFiniteHook)]
tta_model = dict(type=AverageClsScoreTTA)
flips = [dict(type=RandomFlip, prob=p) for p in (0.0, 1.0)]
transforms = [[resize], flips, [pipeline[2]]]
tta_pipeline = [pipeline[0], dict(type=TestTimeAug, transforms=transforms)]
"""
LR = ['--cfg-options', 'optim_wrapper.optimizer.lr=0.5']
TOOLS = {
    'doctor': ['tools/doctor.py', 'C', *LR],
    'print_config': ['tools/misc/print_config.py', 'C', *LR],
    'get_flops': ['tools/analysis_tools/get_flops.py', 'C', '--shape', '32'],
    'confusion_matrix': ['tools/analysis_tools/confusion_matrix.py', 'C', 'W', '--show-path',
                         'matrix.png'],
    'schedule': ['tools/visualization/vis_scheduler.py', 'C', '--auto-scale-lr', *LR],
    'test': ['tools/test.py', 'C', 'W', '--out', 'out.pkl', '--show-dir', 'drawings'],
    'tta': ['tools/test.py', 'C', 'W', '--tta', '--cfg-options', 'test_dataloader.batch_size=5'],
    'reparameterize_model': ['tools/model_converters/reparameterize_model.py', 'C', 'W',
                             'folded.pth'],
    'export': ['tools/deploy/export.py', 'C', 'W', 'x.onnx', '--sizes', '32x32'],
    'cam': ['tools/visualization/vis_cam.py', 'I', 'C', 'W', *LR],
    'erf': ['tools/visualization/vis_erf.py', 'C', 'W', '--count', '1', '--side', '64'],
    'benchmark': ['tools/analysis_tools/benchmark.py', '--cases', 'inference:1x32x32',
                  '--repetitions', '1', '--models', 'C', '--baseline', 'C'],
    'unified_view': ['benchmarks/unified_view.py', 'C'],
    'image_demo': ['demo/image_demo.py', 'I', 'C', 'W', *LR],
}  # fmt: skip


@pytest.fixture(scope='module', params=['mmpretrain', None], ids=['scope', 'no scope'])
def folder(request, python, mini_data, tmp_path_factory):
    """With a config and what it trained."""
    folder = tmp_path_factory.mktemp('pure')
    (folder / 'data.py').write_text(BASE.format(data=str(mini_data / 'imagenet')))
    (folder / 'config.py').write_text(CONFIG.format(scope=request.param))
    image = next((mini_data / 'imagenet/val').rglob('*.png'))
    shutil.copy(image, folder / 'image.png')
    result = python(ROOT / 'tools/train.py', 'config.py', '--work-dir', 'run', *LR, cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:] + result.stdout[-1000:]
    return folder


@pytest.mark.parametrize('name', TOOLS)
def test_tool(name, folder, python):
    program, *words = TOOLS[name]
    names = dict(C='config.py', W='run/epoch_1.pth', I='image.png')
    result = python(ROOT / program, *(names.get(word, word) for word in words), cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:] + result.stdout[-1000:]
