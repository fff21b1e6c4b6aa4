# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Every config file: it parses, survives a round trip, is short, and names no machine's folders."""

import ast
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdmformer.engine.variables import read_config

CONFIGS = Path(__file__).parents[2] / 'configs'
FILES = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
DATA_ROOTS = {
    'mmpretrain': 'data/imagenet',
    'mmdet': 'data/coco',
    'mmseg': 'data/ade/ADEChallengeData2016',
}

S_CONFIGS = (
    'dmformer-s_8xb128_in1k',
    'retinanet_dmformer-s_fpn_8xb2-1x_coco',
    'mask-rcnn_dmformer-s_fpn_8xb2-1x_coco',
    'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512',
    'dmformer-s_upernet_8xb2-160k_ade20k-512x512',
)
VARIANTS = [path for path in FILES if path.parent.name != 'mini' and path.stem not in S_CONFIGS]
# What people change on the command line.
CHANGED = dict(
    data_root='elsewhere',
    batch_size=3,
    num_workers=0,
    pretrained='dmformer.pth',
    drop_path_rate=0.35,
    lr=7e-4,
)

each_config = pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)


def bases_of(path):
    """The files that a config inherits."""
    (statement,) = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == '_base_'
    ]
    bases = ast.literal_eval(statement.value)
    return [bases] if isinstance(bases, str) else bases


def strings(node):
    """All strings below ``node``, keys left out."""
    if isinstance(node, dict):
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return [node] if isinstance(node, str) else []
    return [text for child in node for text in strings(child)]


def types(node):
    """All values of ``type`` below ``node``."""
    found = []
    if isinstance(node, dict):
        found += [node['type']] if 'type' in node else []
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return []
    return found + [name for child in node for name in types(child)]


def test_every_experiment_has_a_config():
    ablations = ('s-r1', 's-single-7x7', 's-no-dilation', 's-no-residual', 's-no-gate')
    recipes = {
        'dmformer-{}_8xb128_in1k': ('s', 'l', *ablations),
        'retinanet_dmformer-{}_fpn_8xb2-1x_coco': ('s', 'l', *ablations),
        'mask-rcnn_dmformer-{}_fpn_8xb2-1x_coco': ('s', 'l'),
        'dmformer-{}_sem-fpn_8xb2-40k_ade20k-512x512': ('s', 'l', *ablations),
        'dmformer-{}_upernet_8xb2-160k_ade20k-512x512': ('s', 'l'),
        'retinanet_dmformer-{}_fpn_8xb2-layer-decay-1x_coco': ('s',),
        'dmformer-{}_upernet_8xb2-layer-decay-160k_ade20k-512x512': ('s',),
    }
    expected = {name.format(variant) for name, variants in recipes.items() for variant in variants}
    assert {path.stem for path in (CONFIGS / 'dmformer').glob('*.py')} == expected


def test_there_is_a_mini_leaf_of_each_recipe():
    bases = [Path(base).stem for path in (CONFIGS / 'mini').glob('*.py') for base in bases_of(path)]
    assert set(S_CONFIGS) <= set(bases)


@pytest.mark.parametrize('path', VARIANTS, ids=lambda path: path.stem)
def test_variant_is_a_few_lines_over_its_sibling(path):
    family, variant, *rest = re.split(r'(dmformer-[^_]*)', path.stem)
    sibling = f'{family}dmformer-s{"".join(rest)}'.replace('-layer-decay', '')
    assert variant.startswith('dmformer-') and bases_of(path) == [f'{sibling}.py']
    assert len(path.read_text().splitlines()) <= 16


@pytest.mark.parametrize('path', VARIANTS, ids=lambda path: path.stem)
def test_variant_changes_its_backbone_or_its_layer_decay_alone(path):
    cfg = Config.fromfile(path)
    sibling = Config.fromfile(path.parent / bases_of(path)[0])
    backbone = cfg.model.backbone
    network = (
        {'arch'},
        {'arch', 'expand_ratio'},
        {'kernel_sizes', 'dilations'},
        {'dilations'},
        {'residual'},
        {'arch', 'gate'},
    )
    changed = {
        key for key, value in backbone.items() if value != sibling.model.backbone.get(key, None)
    }
    if 'layer-decay' in path.stem:
        assert changed == set()
        settings = cfg.optim_wrapper
        assert settings.pop('constructor') == 'LayerDecayOptimWrapperConstructor'
        assert settings.paramwise_cfg.pop('layer_decay_rate') == cfg.pop('layer_decay_rate') == 0.9
        if not settings.paramwise_cfg and 'paramwise_cfg' not in sibling.optim_wrapper:
            settings.pop('paramwise_cfg')
    else:
        assert changed in network
        cfg.model.backbone = sibling.model.backbone
    assert cfg.to_dict() == sibling.to_dict()


@each_config
def test_config_survives_a_round_trip(path, tmp_path):
    cfg = Config.fromfile(path)
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()


@each_config
def test_paths_are_relative_and_the_data_are_where_the_toolboxes_expect_them(path):
    cfg = Config.fromfile(path)
    assert not [text for text in strings(cfg.to_dict()) if text.startswith(('/', '~'))]
    root = DATA_ROOTS[cfg.default_scope]
    if path.parent.name == 'mini':
        root = root.replace('data/', 'data/mini/')
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == root == cfg.data_root


@each_config
def test_config_needs_no_toolbox_beside_its_own(path):
    cfg = Config.fromfile(path)
    assert cfg.custom_imports == dict(imports=['mmdmformer'], allow_failed_imports=False)
    assert not [text for text in strings(cfg.to_dict()) if '::' in text]
    packages = {name.split('.')[0] for name in types(cfg.to_dict()) if '.' in name}
    assert packages <= {'mmdmformer'}


@each_config
def test_images_are_normalised_as_in_pretraining(path):
    preprocessor = Config.fromfile(path).model.data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor.get('to_rgb', False) != preprocessor.get('bgr_to_rgb', False)


@each_config
@pytest.mark.parametrize('variables', [{}, CHANGED], ids=['own', 'changed'])
def test_variables_reach_the_places_where_they_act(path, variables):
    cfg = read_config(path, variables)
    assert variables.items() <= cfg.to_dict().items()
    assert cfg.train_dataloader.batch_size == cfg.batch_size
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].num_workers == cfg.num_workers
    assert cfg.model.backbone.init_cfg == dict(type='CheckedPretrained', checkpoint=cfg.pretrained)
    assert cfg.model.backbone.drop_path_rate == cfg.drop_path_rate
    assert cfg.optim_wrapper.optimizer.lr == cfg.lr
    assert cfg.train_cfg.get('max_epochs', cfg.get('max_iters')) == cfg.get(
        'max_epochs', cfg.train_cfg.get('max_iters')
    )
    assert cfg.param_scheduler[-1].end == cfg.get('max_epochs', cfg.get('max_iters'))
    assert cfg.val_dataloader == cfg.test_dataloader
    assert cfg.val_evaluator == cfg.test_evaluator
    if cfg.default_scope == 'mmdet':
        assert Path(cfg.val_evaluator.ann_file) == Path(
            cfg.data_root, cfg.val_dataloader.dataset.ann_file
        )
