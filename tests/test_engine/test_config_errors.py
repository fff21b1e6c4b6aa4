# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Everyday slips in a config: the last line names the value, the place and what was meant."""

from pathlib import Path

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')

ROOT = Path(__file__).parents[2]
CLASSIFIER = 'dmformer-nano_mini-imagenet'
DETECTOR = 'retinanet_dmformer-nano_fpn_mini-coco'
SEGMENTOR = 'dmformer-nano_sem-fpn_mini-ade20k'
BASE = """
_base_ = '{root}/configs/mini/{config}.py'
steps = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=48), dict(type='PackInputs')]
train_dataloader, val_dataloader = [
    dict(num_workers=0, persistent_workers=False, dataset=dict()) for _ in range(2)
]
{slip}
"""
WARM_UP = """
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=-4, begin=5, end=1, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=1)
"""
# What is written, the value in its place, and how the line ends.
SLIPS = [
    ("model = dict(backbone=dict(type='DMFormr'))",
     "model.backbone.type='DMFormr'", 'did you mean DMFormer?'),
    ("model = dict(backbone=dict(arch='nanno'))",
     "model.backbone: arch='nanno'", 'did you mean nano?'),
    ('model = dict(backbone=dict(drop_path=0.1))',
     'model.backbone.drop_path=0.1', 'did you mean drop_path_rate?'),
    ("model = dict(backbone=dict(mixer=dict(type='DMAA')))",
     "model.backbone.mixer.type='DMAA'", 'did you mean DMA?'),
    ("model = dict(backbone=dict(norm_cfg=dict(type='BNN')))",
     "model.backbone.norm_cfg.type='BNN'", 'did you mean BN?'),
    ("model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='trained.pht')))",
     "model.backbone.init_cfg.checkpoint='trained.pht'", 'did you mean trained.pth?'),
    ('model = dict(head=dict(in_channels=512))', 'model.head.in_channels=512', 'set 128.'),
    ("model = dict(head=dict(loss=dict(_delete_=True, type='CrosEntropyLoss')))",
     "model.head.loss.type='CrosEntropyLoss'", 'did you mean CrossEntropyLoss?'),
    ('model = dict(neck=dict(in_channels=[64, 128, 320, 512]))',
     'model.neck.in_channels=[64, 128, 320, 512]', 'set [16, 32, 80, 128].'),
    ('model = dict(neck=dict(in_channels=[16, 32, 80]))',
     'model.neck.in_channels=[16, 32, 80]', 'set [16, 32, 80, 128].'),
    ("optim_wrapper = dict(optimizer=dict(type='AdmW'))",
     "optim_wrapper.optimizer.type='AdmW'", 'did you mean AdamW?'),
    ("optim_wrapper = dict(optimizer=dict(lr='1e-4'))",
     "lr='1e-4'", 'write lr=1e-4 without quotation marks.'),
    ("visualizer = dict(vis_backends=[dict(type='NeptuneVisBackend')])",
     "visualizer.vis_backends.0={'type': 'NeptuneVisBackend'}", 'or leave this out.'),
    ("steps[1]['type'] = 'Resiz'\ntrain_dataloader['dataset']['pipeline'] = steps",
     "train_dataloader.dataset.pipeline.1.type='Resiz'", 'did you mean Resize?'),
    ("steps[1]['scales'] = 48\ntrain_dataloader['dataset']['pipeline'] = steps",
     'train_dataloader.dataset.pipeline.1.scales=48', 'did you mean scale?'),
    ("steps[1]['scale'] = '48'\ntrain_dataloader['dataset']['pipeline'] = steps",
     "train_dataloader.dataset.pipeline.1 with type='Resize', scale='48'",
     'write scale=48 without quotation marks.'),
    ("custom_hooks = [dict(type='EMAHok')]", "custom_hooks.0.type='EMAHok'",
     'did you mean EMAHook?'),
    ("custom_hooks = [dict(type='EMAHook', momentun=0.1)]",
     'custom_hooks.0.momentun=0.1', 'did you mean momentum?'),
    ("val_evaluator = dict(type='Acuracy')", "val_evaluator.type='Acuracy'",
     'did you mean Accuracy?'),
    ("train_dataloader['collate_fn'] = dict(type='default_colate')",
     "train_dataloader.collate_fn.type='default_colate'", 'did you mean default_collate?'),
    ("train_dataloader['batchsize'] = 4", 'train_dataloader.batchsize=4',
     'did you mean batch_size?'),
    ("train_dataloader['batch_size'] = 0", 'train_dataloader with batch_size=0', 'correct it.'),
    ('train_cfg = dict(max_epoch=4)', 'train_cfg.max_epoch=4', 'did you mean max_epochs?'),
    (WARM_UP, 'param_scheduler.1 with begin=5, end=1', 'shorten the warm-up before it.'),
    ("custom_hook = [dict(type='EMAHook')]", 'custom_hook of ', 'did you mean custom_hooks?'),
    ("default_scope = 'mmdett'", "default_scope='mmdett'", 'did you mean mmdet?'),
    ("train_dataloader['dataset']['img_suffix'] = '.tif'",
     "train_dataloader.dataset finds no image with data_root='data/mini/ade",
     'endings and classes.'),
    ('val_cfg = None', 'val_cfg is missing', 'give all of them, or none.'),
]  # fmt: skip


@pytest.mark.parametrize('slip, value, fix', SLIPS)
def test_slip_ends_in_one_line(slip, value, fix, python, mini_data, tmp_path):
    config = DETECTOR if 'neck' in slip else SEGMENTOR if 'suffix' in slip else CLASSIFIER
    (tmp_path / 'config.py').write_text(BASE.format(root=ROOT, config=config, slip=slip))
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/mini').symlink_to(mini_data)
    (tmp_path / 'trained.pth').touch()
    run = python(ROOT / 'tools/train.py', 'config.py', cwd=tmp_path)
    last = run.stderr.splitlines()[-1]
    assert run.returncode == 2, run.stderr[-3000:]
    assert last.startswith('error: ') and value in last and last.endswith(fix), last
