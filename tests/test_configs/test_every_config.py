# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Every config's model: its size, initial weights, weight decay, and a step on its own pipeline."""

import logging
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch.nn.modules.batchnorm import _BatchNorm

from mmdmformer.datasets import CLASSES
from mmdmformer.engine.model import build_model

CONFIGS = Path(__file__).parents[2] / 'configs'
FILES = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
NANO = 859_824  # the backbone of every mini leaf
PARAMETERS = {
    # published, or following from what is published
    'dmformer-s_8xb128_in1k': 26_660_392,
    'dmformer-l_8xb128_in1k': 44_983_464,
    'dmformer-s-r1_8xb128_in1k': 26_947_240,
    'dmformer-s-single-7x7_8xb128_in1k': 26_181_160,
    'dmformer-s-no-dilation_8xb128_in1k': 26_660_392,
    'dmformer-s-no-residual_8xb128_in1k': 26_660_392,
    'dmformer-s-no-gate_8xb128_in1k': 26_169_640,
    'retinanet_dmformer-s_fpn_8xb2-1x_coco': 36_397_364,
    'retinanet_dmformer-l_fpn_8xb2-1x_coco': 54_720_436,
    'mask-rcnn_dmformer-s_fpn_8xb2-1x_coco': 46_314_800,
    'mask-rcnn_dmformer-l_fpn_8xb2-1x_coco': 64_637_872,
    'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512': 30_414_038,
    'dmformer-s_upernet_8xb2-160k_ade20k-512x512': 56_635_244,
    # computed
    'retinanet_dmformer-s-r1_fpn_8xb2-1x_coco': 36_684_212,
    'retinanet_dmformer-s-single-7x7_fpn_8xb2-1x_coco': 35_918_132,
    'retinanet_dmformer-s-no-dilation_fpn_8xb2-1x_coco': 36_397_364,
    'retinanet_dmformer-s-no-residual_fpn_8xb2-1x_coco': 36_397_364,
    'retinanet_dmformer-s-no-gate_fpn_8xb2-1x_coco': 35_906_612,
    'retinanet_dmformer-s_fpn_8xb2-layer-decay-1x_coco': 36_397_364,
    'dmformer-l_sem-fpn_8xb2-40k_ade20k-512x512': 48_737_110,
    'dmformer-s-r1_sem-fpn_8xb2-40k_ade20k-512x512': 30_700_886,
    'dmformer-s-single-7x7_sem-fpn_8xb2-40k_ade20k-512x512': 29_934_806,
    'dmformer-s-no-dilation_sem-fpn_8xb2-40k_ade20k-512x512': 30_414_038,
    'dmformer-s-no-residual_sem-fpn_8xb2-40k_ade20k-512x512': 30_414_038,
    'dmformer-s-no-gate_sem-fpn_8xb2-40k_ade20k-512x512': 29_923_286,
    'dmformer-l_upernet_8xb2-160k_ade20k-512x512': 74_958_316,
    'dmformer-s_upernet_8xb2-layer-decay-160k_ade20k-512x512': 56_635_244,
}
DATA = {'mmpretrain': 'imagenet', 'mmdet': 'coco', 'mmseg': 'ade/ADEChallengeData2016'}
SMALL = {
    'RandomResizedCrop': dict(scale=64),
    'Resize': dict(scale=(107, 64)),
    'RandomResize': dict(scale=(256, 64)),
    'RandomCrop': dict(crop_size=(64, 64)),
}
SCRATCH = 'DMFormer trains from scratch: no pretrained checkpoint is given.'


@pytest.fixture(scope='module', params=FILES, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture(scope='module')
def cfg(path):
    return Config.fromfile(path)


@pytest.fixture(scope='module')
def model(cfg):
    return build_model(cfg)


@pytest.fixture(scope='module')
def initial_log(model):
    """What the log says while the model's weights are initialised."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    model.init_weights()
    logger.removeHandler(handler)
    return messages


def is_production(path):
    return path.parent.name != 'mini'


def test_production_configs_are_those_whose_size_is_known():
    assert {path.stem for path in FILES if is_production(path)} == set(PARAMETERS)


def test_size(path, model):
    size = sum(parameter.numel() for parameter in model.parameters())
    if is_production(path):
        assert size == PARAMETERS[path.stem]
    else:
        assert sum(parameter.numel() for parameter in model.backbone.parameters()) == NANO
        assert size < 2e6


@pytest.mark.parametrize('name', PARAMETERS)
def test_sizes_differ_as_the_backbones_of_the_published_classifiers_do(name):
    task, _, variant = name.partition('dmformer-')
    variant, _, recipe = variant.partition('_')
    of_s = f'{task}dmformer-s_{recipe}'
    of_task = PARAMETERS[name] - PARAMETERS[of_s]
    of_classifier = (
        PARAMETERS[f'dmformer-{variant}_8xb128_in1k'] - PARAMETERS['dmformer-s_8xb128_in1k']
    )
    assert of_task == of_classifier


def norms(model):
    """Names of the parameters of norm layers."""
    return {
        f'{module_name}.{name}'
        for module_name, module in model.named_modules()
        if isinstance(module, (_BatchNorm, torch.nn.LayerNorm))
        for name, _ in module.named_parameters(recurse=False)
    }


def spared_from_decay(cfg, model):
    """Names of the parameters that the recipe gives no weight decay."""
    if cfg.model.type == 'ImageClassifier':
        return norms(model) | {
            name
            for name, _ in model.named_parameters()
            if name.endswith('.bias') or '.layer_scale_' in name
        }
    if cfg.model.get('decode_head', {}).get('type') == 'UPerHead':
        return norms(model)
    return set()


def test_learning_rate_and_weight_decay_of_every_parameter(cfg, model):
    init_default_scope(cfg.default_scope)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {
        names[parameter]: group for group in optimizer.param_groups for parameter in group['params']
    }
    assert groups.keys() == set(names.values())
    assert {'backbone.stages.3.norm.weight', 'backbone.stem.1.bias'} <= norms(model)
    undecayed = {name for name, group in groups.items() if group['weight_decay'] == 0}
    assert undecayed == spared_from_decay(cfg, model)
    assert {group['weight_decay'] for group in groups.values()} - {0} == {
        cfg.optim_wrapper.optimizer.weight_decay
    }
    rate = cfg.get('layer_decay_rate', 1.0)
    for name, group in groups.items():
        depth, num_layers = model.backbone.get_layer_depth(name, 'backbone.')
        assert group['lr'] == pytest.approx(cfg.lr * rate ** (num_layers - depth - 1)), name


def test_the_log_says_once_that_training_starts_from_scratch(cfg, initial_log):
    assert cfg.pretrained is None
    assert [line for line in initial_log if 'scratch' in line] == [SCRATCH]


def read_small_images(cfg, data_root):
    """A batch of two small images through the steps of a config's training pipeline."""
    loader = Config(cfg.train_dataloader.to_dict())
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    loader.dataset.data_root = str(data_root / DATA[cfg.default_scope])
    if cfg.default_scope != 'mmseg':
        loader.dataset.metainfo = dict(classes=CLASSES)
    if cfg.model.backbone.arch != 'nano':
        for step in loader.dataset.pipeline:
            step.update(SMALL.get(step.type, {}))
    init_default_scope(cfg.default_scope)
    set_random_seed(0)
    return next(iter(Runner.build_dataloader(loader, seed=0)))


def test_a_step_on_the_pipelines_own_images_reaches_every_parameter(
    cfg, model, initial_log, mini_data
):
    batch = read_small_images(cfg, mini_data)
    if cfg.default_scope == 'mmseg':
        model.data_preprocessor.size = batch['inputs'][0].shape[-2:]
    batch = model.train().data_preprocessor(batch, training=True)
    assert batch['inputs'].shape[:2] == (2, 3)
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    assert loss.isfinite()
    loss.backward()
    wrong = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all()
    ]
    model.zero_grad()
    assert wrong == []
