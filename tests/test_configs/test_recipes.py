# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The production configs hold the recipes of the paper and of the repositories it follows.

The numbers in families/ are written down once more; test_schedules.py follows the rates, and
test_augmentation.py what happens to images.
"""

import numpy as np
import pytest
import torch
from families import CONFIGS as CONFIGS_FOLDER
from families import MAIN, name_of, recipe_of
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.model.utils import convert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch.nn.modules.batchnorm import _BatchNorm

GPUS = 8
INTERPOLATIONS = {'strong': 'bicubic', 'plain': 'bilinear'}  # of test images
CONFIGS = {path: Config.fromfile(path) for path in MAIN}


def mains(*kinds, head=None):
    """Runs a test for each main config with one of some kinds of model, and a kind of head."""
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
def test_optimizer_batch_and_length(path):
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
    resize = test['ResizeEdge']
    assert (resize.scale, resize.edge) == (recipe.test_side, 'short')
    assert resize.interpolation == INTERPOLATIONS[recipe.augmentation]
    assert test['CenterCrop'].crop_size == 224
    cfg = load(path)
    augmented = [branch[0] for branch in cfg.tta_pipeline[1].transforms[:2]]
    assert augmented == [resize, test['CenterCrop']]
    assert cfg.val_dataloader == cfg.test_dataloader


@mains('ImageClassifier')
def test_initial_weights_of_the_last_layer(path):
    head = MODELS.build(load(path).model.head)
    head.init_weights()
    assert head.fc.weight.std().item() == pytest.approx(recipe_of(path).head_std, rel=0.02)
    assert abs(head.fc.weight.mean().item()) < 1e-4
    assert head.fc.bias.abs().max() == 0


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


@mains('MaskRCNN', 'CascadeRCNN')
def test_multi_scale_images_of_swin(path):
    if not recipe_of(path).multi_scale:
        return
    whole, cropped = pipeline(load(path))['RandomChoice'].transforms
    sides = [(1333, side) for side in range(480, 801, 32)]
    assert [step.scales for step in whole] == [sides]
    before, crop, after = cropped
    assert before.scales == [(1333, 400), (1333, 500), (1333, 600)]
    assert (crop.crop_type, crop.crop_size) == ('absolute_range', (384, 600))
    assert after.scales == sides


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


@mains('EncoderDecoder')
def test_sides_of_ade20k_test_images(path):
    """Semantic FPN's are multiples of 32, as PVT's, PoolFormer's and VAN's; UperNet's are not."""
    cfg = load(path)
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if 'Resize' in step.type]
    image = dict(img=np.zeros((600, 803, 3), np.uint8))
    shape = Compose(steps)(image)['img'].shape[:2]
    assert shape == ((512, 704) if cfg.model.decode_head.type == 'FPNHead' else (512, 685))


@mains('EncoderDecoder')
def test_ade20k_augmentation_in_testing(path):
    """Six scales, each mirrored too, as mmseg and Swin test; single scale is the default."""
    cfg = load(path)
    resizes, *align, flips, annotations, pack = cfg.tta_pipeline[1].transforms
    scales = [(1024, 256), (1536, 384), (2048, 512), (2560, 640), (3072, 768), (3584, 896)]
    assert resizes == [dict(type='Resize', scale=scale, keep_ratio=True) for scale in scales]
    assert [flip.prob for flip in flips] == [0.0, 1.0]
    expected = [[dict(type='ResizeToMultiple', size_divisor=32)]]
    assert align == (expected if cfg.model.decode_head.type == 'FPNHead' else [])
    assert [step.type for step in (*annotations, *pack)] == ['LoadAnnotations', 'PackSegInputs']


@mains('EncoderDecoder', head='UPerHead')
def test_auxiliary_head_is_on_stage_3(path):
    cfg = load(path)
    head, channels = cfg.model.auxiliary_head, MODELS.build(cfg.model.backbone).out_channels
    assert (head.type, head.in_index, head.in_channels) == ('FCNHead', 2, channels[2])
    assert head.loss_decode.loss_weight == 0.4


def test_one_line_gives_new_layers_the_papers_xavier():
    """The line of configs/dmformer/README.md; the toolboxes' own initialization is the default."""
    prior = dict(type='Xavier', name='retina_cls', bias_prob=0.01)
    xavier = dict(type='Xavier', layer='Conv2d')
    for name, head_name, layers, cfg in (
        ('retinanet_dmformer-s_fpn_8xb2-1x_coco', 'bbox_head', 10, dict(xavier, override=prior)),
        ('dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512', 'decode_head', 8, xavier),
    ):
        head_cfg = load(CONFIGS_FOLDER / f'dmformer/{name}.py').model[head_name]
        head_cfg.init_cfg = cfg
        head = MODELS.build(head_cfg)
        head.init_weights()
        convolutions = [m for m in head.modules() if isinstance(m, torch.nn.Conv2d)]
        assert len(convolutions) == layers
        for conv in convolutions:
            pixels = conv.weight[0, 0].numel()
            expected = (2 / pixels / (conv.in_channels + conv.out_channels)) ** 0.5
            assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)
        if head_name == 'bbox_head':
            torch.testing.assert_close(
                head.retina_cls.bias.sigmoid(), torch.full_like(head.retina_cls.bias, 0.01)
            )


@each_main
def test_batch_norm_is_synchronized_where_a_gpu_sees_two_images(path):
    cfg = load(path)
    assert cfg.get('sync_bn') == (None if cfg.model.type == 'ImageClassifier' else 'torch')
    model = MODELS.build(cfg.model)
    assert not [m for m in model.modules() if isinstance(m, torch.nn.SyncBatchNorm)]
    if cfg.get('sync_bn'):
        num_norms = sum(isinstance(m, _BatchNorm) for m in model.modules())
        model = convert_sync_batchnorm(model, cfg.sync_bn)
        assert num_norms == sum(isinstance(m, torch.nn.SyncBatchNorm) for m in model.modules())
