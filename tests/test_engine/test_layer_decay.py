# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Layer-wise learning-rate decay, on models of the three toolboxes and on a bare one."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmdmformer import DMFormer
from mmdmformer.engine.model import build_model

CONFIGS = Path(__file__).parents[2] / 'configs/mini'
NANO_DEPTHS = (1, 1, 2, 1)
LR, RATE, WEIGHT_DECAY = 1e-3, 0.7, 0.05


def build_groups(model, **paramwise_cfg):
    """Settings of every parameter in the optimizer, by name."""
    wrapper = build_optim_wrapper(
        model,
        dict(
            constructor='LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=LR, weight_decay=WEIGHT_DECAY),
            paramwise_cfg=dict(layer_decay_rate=RATE, **paramwise_cfg),
        ),
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: group
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }


def steps_below_the_head(name):
    """How often the rate of a parameter of the nano backbone is multiplied; 0 for the head."""
    if name.startswith('backbone.stem.'):
        return 6
    match = re.match(r'backbone\.stages\.(\d)\.(?:blocks\.(\d)|(downsample)|norm)', name)
    if not match:
        assert not name.startswith('backbone.')
        return 0
    stage, block, downsample = match.groups()
    if block is None:
        block = 0 if downsample else NANO_DEPTHS[int(stage)] - 1
    return 5 - sum(NANO_DEPTHS[: int(stage)]) - int(block)


@pytest.mark.parametrize(
    'name',
    [
        'dmformer-nano_mini-imagenet',
        'retinanet_dmformer-nano_fpn_mini-coco',
        'mask-rcnn_dmformer-nano_fpn_mini-coco',
        'dmformer-nano_sem-fpn_mini-ade20k',
        'dmformer-nano_upernet_mini-ade20k',
    ],
)
def test_rate_of_every_parameter(name):
    model = build_model(Config.fromfile(CONFIGS / f'{name}.py'))
    groups = build_groups(model, flat_decay_mult=0.0)
    assert groups.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        expected = LR * RATE ** steps_below_the_head(name)
        assert groups[name]['lr'] == pytest.approx(expected), name
        assert groups[name]['weight_decay'] == (0 if parameter.ndim == 1 else WEIGHT_DECAY), name
    assert {round(group['lr'] / LR, 6) for group in groups.values()} == {
        round(RATE**i, 6) for i in range(7)
    }


class _Model(BaseModule):
    """What mmengine alone can train."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(128, 2)


def test_options_of_mmengine_keep_their_effect():
    model = _Model(DMFormer('nano', frozen_stages=1))
    groups = build_groups(
        model,
        norm_decay_mult=0.0,
        bias_lr_mult=2.0,
        custom_keys={'layer_scale': dict(lr_mult=3.0, decay_mult=0.5)},
    )
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert groups.keys() == trained != set(dict(model.named_parameters()))
    block = 'backbone.stages.3.blocks.0'
    settings = {
        name: (groups[name]['lr'] / LR, groups[name]['weight_decay'])
        for name in (f'{block}.norm1.weight', f'{block}.ffn.0.bias', f'{block}.layer_scale_1')
    }
    assert settings == {
        f'{block}.norm1.weight': (pytest.approx(RATE), 0.0),
        f'{block}.ffn.0.bias': (pytest.approx(2 * RATE), WEIGHT_DECAY),
        f'{block}.layer_scale_1': (pytest.approx(3 * RATE), pytest.approx(WEIGHT_DECAY / 2)),
    }
    assert groups['head.bias']['lr'] == 2 * LR


def test_a_backbone_without_depths_is_named():
    with pytest.raises(TypeError, match='of _Model is a Identity, which has no get_layer_depth'):
        build_groups(_Model(nn.Identity()))


@pytest.mark.parametrize('rate', [None, 0, 1.5, '0.9'])
def test_wrong_rates_are_named(rate):
    cfg = dict(
        constructor='LayerDecayOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=LR),
        paramwise_cfg=dict(layer_decay_rate=rate),
    )
    with pytest.raises(ValueError, match=f'layer_decay_rate={rate} .* above 0 and at most 1'):
        build_optim_wrapper(_Model(DMFormer('nano')), cfg)


def test_an_optimizer_without_a_rate_is_named():
    cfg = dict(
        constructor='LayerDecayOptimWrapperConstructor',
        optimizer=dict(type='AdamW'),
        paramwise_cfg=dict(layer_decay_rate=RATE),
    )
    with pytest.raises(ValueError, match=r"optimizer=\{'type': 'AdamW'\} has no lr"):
        build_optim_wrapper(_Model(DMFormer('nano')), cfg)
