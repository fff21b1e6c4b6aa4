# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The production configs hold the recipes of the paper and of the repositories it follows.

The numbers here are written down once more; tests/test_analysis/test_schedule.py follows the rates.
"""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model.utils import convert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

CONFIGS = Path(__file__).parents[2] / 'configs'
CLASSIFIER = 'dmformer-s_8xb128_in1k'
RETINANET = 'retinanet_dmformer-s_fpn_8xb2-1x_coco'
MASK_RCNN = 'mask-rcnn_dmformer-s_fpn_8xb2-1x_coco'
SEMANTIC_FPN = 'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512'
UPERNET = 'dmformer-s_upernet_8xb2-160k_ade20k-512x512'
GPUS = 8
# learning rate, weight decay, total batch size, length, stochastic depth
RECIPES = {
    CLASSIFIER: (1e-3, 0.05, 1024, dict(max_epochs=300), 0.2),
    RETINANET: (1e-4, 1e-4, 16, dict(max_epochs=12), 0.1),
    MASK_RCNN: (1e-4, 1e-4, 16, dict(max_epochs=12), 0.1),
    SEMANTIC_FPN: (2e-4, 1e-4, 16, dict(max_iters=40_000), 0.1),
    UPERNET: (6e-5, 0.01, 16, dict(max_iters=160_000), 0.1),
}


def load(name):
    cfg = Config.fromfile(CONFIGS / 'dmformer' / f'{name}.py')
    init_default_scope(cfg.default_scope)
    return cfg


def pipeline(cfg, split='train'):
    return {step.type: step for step in cfg[f'{split}_dataloader'].dataset.pipeline}


@pytest.mark.parametrize('name', RECIPES)
def test_optimiser_batch_and_length(name):
    cfg = load(name)
    lr, weight_decay, batch, length, drop_path_rate = RECIPES[name]
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert optimizer.pop('type') == 'AdamW'
    assert (optimizer['lr'], optimizer['weight_decay']) == (lr, weight_decay)
    assert optimizer.pop('betas', None) == (0.9, 0.999)
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'clip_grad' not in cfg.optim_wrapper
    assert GPUS * cfg.train_dataloader.batch_size == batch == cfg.auto_scale_lr.base_batch_size
    assert {key: cfg.train_cfg[key] for key in length} == length
    assert cfg.model.backbone.drop_path_rate == drop_path_rate
    assert cfg.model.backbone.arch == 'small'


def test_classification_augmentation():
    cfg = load(CLASSIFIER)
    steps = pipeline(cfg)
    crop = steps['RandomResizedCrop']
    assert (crop.scale, crop.interpolation, crop.backend) == (224, 'bicubic', 'pillow')
    assert steps['RandomFlip'].prob == 0.5
    augment = steps['RandAugment']  # m9-mstd0.5-inc1
    assert (augment.policies, augment.num_policies) == ('timm_increasing', 2)
    assert (augment.magnitude_level, augment.total_level, augment.magnitude_std) == (9, 10, 0.5)
    erasing = steps['RandomErasing']
    assert (erasing.erase_prob, erasing.mode) == (0.25, 'rand')
    assert erasing.fill_color == cfg.model.data_preprocessor.mean[::-1]
    assert erasing.fill_std == cfg.model.data_preprocessor.std[::-1]
    assert 'ColorJitter' not in steps
    assert cfg.model.train_cfg.augments == [
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0),
    ]
    assert cfg.model.head.loss.type == 'LabelSmoothLoss'
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert not [hook for hook in cfg.custom_hooks if hook.type == 'EMAHook']
    test = pipeline(cfg, 'test')
    assert (test['ResizeEdge'].scale, test['ResizeEdge'].interpolation) == (248, 'bicubic')
    assert test['CenterCrop'].crop_size == 224


@pytest.mark.parametrize('name', [RETINANET, MASK_RCNN])
def test_coco_images(name):
    cfg = load(name)
    for split in ('train', 'test'):
        assert pipeline(cfg, split)['Resize'].scale == (1333, 800)
        assert pipeline(cfg, split)['LoadAnnotations'].get('with_mask', False) == (
            name == MASK_RCNN
        )
    assert pipeline(cfg)['RandomFlip'].prob == 0.5


def test_retinanet_takes_stages_2_to_4():
    model = MODELS.build(load(RETINANET).model)
    assert [conv.in_channels for conv in model.neck.lateral_convs] == [128, 320, 512]
    assert model.neck.add_extra_convs == 'on_input'
    assert model.neck.fpn_convs[3].in_channels == 512


@pytest.mark.parametrize('name', [SEMANTIC_FPN, UPERNET])
def test_ade20k_images(name):
    cfg = load(name)
    steps = pipeline(cfg)
    resize = steps['RandomResize']
    assert (resize.scale, resize.ratio_range) == ((2048, 512), (0.5, 2.0))
    assert steps['RandomCrop'].crop_size == (512, 512) == cfg.model.data_preprocessor.size
    test = pipeline(cfg, 'test')
    assert test['Resize'] == dict(type='Resize', scale=(2048, 512), keep_ratio=True)
    assert cfg.model.test_cfg.mode == 'whole'
    assert {steps['LoadAnnotations'].reduce_zero_label, test['LoadAnnotations'].reduce_zero_label}


def test_auxiliary_head_is_on_stage_3():
    head = load(UPERNET).model.auxiliary_head
    assert (head.type, head.in_index, head.in_channels) == ('FCNHead', 2, 320)
    assert head.loss_decode.loss_weight == 0.4


@pytest.mark.parametrize('name', RECIPES)
def test_batch_norm_is_synchronised_where_a_gpu_sees_two_images(name):
    cfg = load(name)
    assert cfg.get('sync_bn') == (None if name == CLASSIFIER else 'torch')
    model = MODELS.build(cfg.model)
    assert not [m for m in model.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    if cfg.get('sync_bn'):
        num_norms = sum(isinstance(m, _BatchNorm) for m in model.modules())
        model = convert_sync_batchnorm(model, cfg.sync_bn)
        assert num_norms == sum(isinstance(m, torch.nn.SyncBatchNorm) for m in model.modules())
