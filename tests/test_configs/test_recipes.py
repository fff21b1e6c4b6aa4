# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The production configs hold the recipes of the paper and of the repositories it follows.

The numbers in families/ are written down once more; test_schedules.py follows the rates, and
test_augmentation.py what happens to images.
"""

import pytest
import torch
from families import MAIN, name_of, recipe_of
from mmengine.config import Config
from mmengine.model.utils import convert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

GPUS = 8
TEST_IMAGES = {'strong': (248, 'bicubic'), 'plain': (256, 'bilinear')}  # shorter side, filter
CONFIGS = {path: Config.fromfile(path) for path in MAIN}


def mains(*kinds, head=None):
    """Runs a test for each main leaf with one of some kinds of model, and a kind of head."""
    paths = [
        path
        for path, cfg in CONFIGS.items()
        if cfg.model.type in kinds and head in (None, cfg.model.get('decode_head', {}).get('type'))
    ]
    return pytest.mark.parametrize('path', paths, ids=name_of)


each_main = pytest.mark.parametrize('path', MAIN, ids=name_of)


def load(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    return cfg


def pipeline(cfg, split='train'):
    return {step.type: step for step in cfg[f'{split}_dataloader'].dataset.pipeline}


@each_main
def test_optimiser_batch_and_length(path):
    cfg, recipe = load(path), recipe_of(path)
    optimizer = dict(cfg.optim_wrapper.optimizer)
    assert optimizer.pop('eps', 1e-8) == 1e-8
    assert optimizer == recipe.optimizer
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert cfg.optim_wrapper.get('clip_grad') == recipe.clip_grad
    batch = recipe.batch
    assert GPUS * cfg.train_dataloader.batch_size == batch == cfg.auto_scale_lr.base_batch_size
    assert {key: cfg.train_cfg[key] for key in recipe.length} == recipe.length
    assert cfg.model.backbone.get('drop_path_rate') == recipe.drop_path_rate
    assert cfg.model.backbone.arch == recipe.arch
    averages = [hook for hook in cfg.get('custom_hooks', ()) if hook.type == 'EMAHook']
    assert len(averages) == recipe.ema


@mains('ImageClassifier')
def test_classification_augmentation(path):
    cfg, recipe = load(path), recipe_of(path)
    steps = pipeline(cfg)
    crop = steps['RandomResizedCrop']
    assert (crop.scale, crop.backend) == (224, 'pillow')
    assert steps['RandomFlip'].prob == 0.5
    strong = recipe.augmentation == 'strong'
    assert {'RandAugment', 'RandomErasing'} & steps.keys() == (
        {'RandAugment', 'RandomErasing'} if strong else set()
    )
    if strong:
        check_strong_augmentation(cfg, steps)
    assert ('augments' in (cfg.model.train_cfg or {})) == strong
    assert 'ColorJitter' not in steps
    sampler = cfg.train_dataloader.sampler.type
    assert sampler == ('RepeatAugSampler' if recipe.repeated_augmentation else 'DefaultSampler')
    assert cfg.model.head.loss.type == 'LabelSmoothLoss'
    assert cfg.model.head.loss.label_smooth_val == 0.1


def check_strong_augmentation(cfg, steps):
    assert steps['RandomResizedCrop'].interpolation == 'bicubic'
    augment = steps['RandAugment']  # m9-mstd0.5-inc1
    assert (augment.policies, augment.num_policies) == ('timm_increasing', 2)
    assert (augment.magnitude_level, augment.total_level, augment.magnitude_std) == (9, 10, 0.5)
    erasing = steps['RandomErasing']
    assert (erasing.erase_prob, erasing.mode) == (0.25, 'rand')
    assert erasing.fill_color == cfg.model.data_preprocessor.mean[::-1]
    assert erasing.fill_std == cfg.model.data_preprocessor.std[::-1]
    assert cfg.model.train_cfg.augments == [
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0),
    ]


@mains('ImageClassifier')
def test_classification_test_images(path):
    test, recipe = pipeline(load(path), 'test'), recipe_of(path)
    edge, interpolation = TEST_IMAGES[recipe.augmentation]
    assert (test['ResizeEdge'].scale, test['ResizeEdge'].interpolation) == (edge, interpolation)
    assert test['CenterCrop'].crop_size == 224


@mains('RetinaNet', 'MaskRCNN', 'CascadeRCNN')
def test_coco_images(path):
    cfg = load(path)
    multi_scale = recipe_of(path).multi_scale
    assert ('Resize' not in pipeline(cfg)) == multi_scale
    for split in ('train', 'test'):
        if split == 'test' or not multi_scale:
            assert pipeline(cfg, split)['Resize'].scale == (1333, 800)
        assert pipeline(cfg, split)['LoadAnnotations'].get('with_mask', False) == (
            cfg.model.type != 'RetinaNet'
        )
    assert pipeline(cfg)['RandomFlip'].prob == 0.5


@mains('RetinaNet')
def test_retinanet_takes_stages_2_to_4(path):
    model = MODELS.build(load(path).model)
    channels = list(model.backbone.out_channels)[-3:]
    assert [conv.in_channels for conv in model.neck.lateral_convs] == channels
    assert model.neck.add_extra_convs == 'on_input'
    assert model.neck.fpn_convs[3].in_channels == channels[-1]


@mains('EncoderDecoder')
def test_ade20k_images(path):
    cfg = load(path)
    steps = pipeline(cfg)
    resize = steps['RandomResize']
    assert (resize.scale, resize.ratio_range) == ((2048, 512), (0.5, 2.0))
    assert steps['RandomCrop'].crop_size == (512, 512) == cfg.model.data_preprocessor.size
    test = pipeline(cfg, 'test')
    assert test['Resize'] == dict(type='Resize', scale=(2048, 512), keep_ratio=True)
    assert cfg.model.test_cfg.mode == 'whole'
    assert {steps['LoadAnnotations'].reduce_zero_label, test['LoadAnnotations'].reduce_zero_label}


@mains('EncoderDecoder', head='UPerHead')
def test_auxiliary_head_is_on_stage_3(path):
    cfg = load(path)
    head, channels = cfg.model.auxiliary_head, MODELS.build(cfg.model.backbone).out_channels
    assert (head.type, head.in_index, head.in_channels) == ('FCNHead', 2, channels[2])
    assert head.loss_decode.loss_weight == 0.4


@each_main
def test_batch_norm_is_synchronised_where_a_gpu_sees_two_images(path):
    cfg = load(path)
    assert cfg.get('sync_bn') == (None if cfg.model.type == 'ImageClassifier' else 'torch')
    model = MODELS.build(cfg.model)
    assert not [m for m in model.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    if cfg.get('sync_bn'):
        num_norms = sum(isinstance(m, _BatchNorm) for m in model.modules())
        model = convert_sync_batchnorm(model, cfg.sync_bn)
        assert num_norms == sum(isinstance(m, torch.nn.SyncBatchNorm) for m in model.modules())
