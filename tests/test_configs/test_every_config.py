# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Every config's model: its size, initial weights, weight decay, and a step on its own pipeline."""

import logging
import re

import pytest
import torch
from families import (
    FAMILIES,
    FILES,
    NANO,
    NORMS,
    PRODUCTION,
    bases_of,
    family_of,
    is_production,
    main_config_of,
    name_of,
    network_of,
    recipe_of,
)
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch.nn.modules.batchnorm import _BatchNorm

from mini_data import CLASSES
from mmdmformer.engine.model import build_model

DATA = {'mmpretrain': 'imagenet', 'mmdet': 'coco', 'mmseg': 'ade/ADEChallengeData2016'}
SMALL = {
    'RandomResizedCrop': dict(scale=64),
    'Resize': dict(scale=(107, 64)),
    'RandomResize': dict(scale=(256, 64)),
    'RandomChoiceResize': dict(scales=[(107, 64), (107, 80)]),
    'RandomCrop': dict(crop_size=(64, 64)),
}
SCRATCH = '{} trains from scratch: no pretrained checkpoint is given.'


@pytest.fixture(scope='module', params=FILES, ids=name_of)
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
    """What the log says while the model's weights are initialized."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    model.init_weights()
    logger.removeHandler(handler)
    return messages


def test_production_configs_are_those_whose_size_is_known():
    for name, family in FAMILIES.items():
        assert {p.stem for p in PRODUCTION if p.parent.name == name} == set(family.parameters)


def test_size(path, cfg, model):
    size = sum(parameter.numel() for parameter in model.parameters())
    if is_production(path):
        assert size == family_of(path).parameters[path.stem]
    else:
        backbone = sum(parameter.numel() for parameter in model.backbone.parameters())
        assert backbone == NANO[path.stem if path.stem in NANO else cfg.model.backbone.type]
        assert size < 2e6


def classifier_of(path):
    """The ImageNet config of a config's network."""
    network = network_of(path)
    (name,) = (
        n for n in family_of(path).parameters if n.startswith(f'{network}_8') and 'in1k' in n
    )
    return name


@pytest.mark.parametrize('size', ['s', 'nano'])
def test_networks_with_other_token_mixers_are_of_one_size(size):
    """Within 5 %, by the number of their blocks; ablations of DMFormer's paper are so as well."""
    family = FAMILIES['metaformer']
    sizes = family.parameters if size == 's' else family.nano
    names = [name for name in sizes if name.startswith(f'metaformer-{size}-')]
    dmformer = sizes[names[0]]
    assert len(names) == 12 and dmformer in (26_660_392, 859_824)
    assert all(abs(sizes[name] / dmformer - 1) < 0.05 for name in names)


@pytest.mark.parametrize('path', PRODUCTION, ids=name_of)
def test_sizes_differ_as_the_backbones_of_the_classifiers_do(path):
    sizes, main = family_of(path).parameters, main_config_of(path)
    of_task = sizes[path.stem] - sizes[main.stem]
    assert of_task == sizes[classifier_of(path)] - sizes[classifier_of(main)]


def norms(model):
    """Names of the parameters of norm layers."""
    return {
        f'{module_name}.{name}'
        for module_name, module in model.named_modules()
        if isinstance(module, (_BatchNorm, torch.nn.LayerNorm))
        for name, _ in module.named_parameters(recurse=False)
    }


def spared_from_decay(recipe, model):
    """Names of the parameters that the recipe gives no weight decay."""
    names = {name for name, _ in model.named_parameters() if re.fullmatch(recipe.undecayed, name)}
    return names | norms(model) if recipe.norms_undecayed else names


def test_learning_rate_and_weight_decay_of_every_parameter(path, cfg, model):
    init_default_scope(cfg.default_scope)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {
        names[parameter]: group for group in optimizer.param_groups for parameter in group['params']
    }
    assert groups.keys() == set(names.values())
    assert NORMS[cfg.model.backbone.type] <= norms(model)
    undecayed = {name for name, group in groups.items() if group['weight_decay'] == 0}
    assert undecayed == spared_from_decay(recipe_of(path), model)
    assert {group['weight_decay'] for group in groups.values()} - {0} == {
        cfg.optim_wrapper.optimizer.weight_decay
    }
    rate = cfg.get('layer_decay_rate', 1.0)
    for name, group in groups.items():
        depth, num_layers = model.backbone.get_layer_depth(name, 'backbone.')
        assert group['lr'] == pytest.approx(cfg.lr * rate ** (num_layers - depth - 1)), name


def test_the_log_says_once_that_training_starts_from_scratch(cfg, initial_log):
    assert cfg.pretrained is None
    assert [line for line in initial_log if 'scratch' in line] == [
        SCRATCH.format(cfg.model.backbone.type)
    ]


def shrink_images(steps):
    """Let all steps of a pipeline, and those among which one chooses, make small images."""
    for step in steps:
        step.update(SMALL.get(step.type, {}))
        if step.type == 'RandomResize' and 'ratio_range' not in step:
            step.scale = [(107, 64), (107, 80)]
        for branch in step.get('transforms', ()):
            shrink_images(branch)


def read_small_images(cfg, data_root, shrink):
    """A batch of two small images through the steps of a config's training pipeline."""
    loader = Config(cfg.train_dataloader.to_dict())
    loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    loader.dataset.data_root = str(data_root / DATA[cfg.default_scope])
    if cfg.default_scope != 'mmseg':
        loader.dataset.metainfo = dict(classes=CLASSES)
    if shrink:
        shrink_images(loader.dataset.pipeline)
    init_default_scope(cfg.default_scope)
    set_random_seed(0)
    return next(iter(Runner.build_dataloader(loader, seed=0)))


def sample_few_boxes(roi_head):
    """Let a step take 64 boxes of each image, not 512, which would be a minute's work."""
    samplers = roi_head.bbox_sampler
    for sampler in samplers if isinstance(samplers, list) else [samplers]:
        sampler.num = 64


def test_a_step_on_the_pipelines_own_images_reaches_every_parameter(
    path, cfg, model, initial_log, mini_data
):
    if path.stem in family_of(path).deeper:
        pytest.skip(f'it repeats the blocks of {bases_of(path)[0].stem} more often')
    shrink = is_production(path) and path.stem not in family_of(path).full_size
    batch = read_small_images(cfg, mini_data, shrink)
    if hasattr(model, 'roi_head'):
        sample_few_boxes(model.roi_head)
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
