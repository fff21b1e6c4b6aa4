# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Every config file: it parses, survives a round trip, builds, and names no machine's folders."""

import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

CONFIGS = Path(__file__).parents[2] / 'configs'
FILES = sorted(path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts)
PARAMETERS = {
    'dmformer-s_8xb128_in1k': 26_660_392,
    'retinanet_dmformer-s_fpn_8xb2-1x_coco': 36_397_364,
    'mask-rcnn_dmformer-s_fpn_8xb2-1x_coco': 46_314_800,
    'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512': 30_414_038,
    'dmformer-s_upernet_8xb2-160k_ade20k-512x512': 56_635_244,
}
DATA_ROOTS = {
    'mmpretrain': 'data/imagenet',
    'mmdet': 'data/coco',
    'mmseg': 'data/ade/ADEChallengeData2016',
}

each_config = pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)


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


def test_there_are_five_production_configs_and_a_mini_leaf_of_each():
    production = {path.stem for path in (CONFIGS / 'dmformer').glob('*.py')}
    assert production == set(PARAMETERS)
    bases = [
        re.search(r"^_base_ = '\.\./dmformer/(.*)\.py'$", path.read_text(), re.M).group(1)
        for path in (CONFIGS / 'mini').glob('*.py')
    ]
    assert sorted(bases) == sorted(production)


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
    assert not [name for name in types(cfg.to_dict()) if '.' in name]


@each_config
def test_model_has_the_published_size(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    size = sum(parameter.numel() for parameter in MODELS.build(cfg.model).parameters())
    if path.stem in PARAMETERS:
        assert size == PARAMETERS[path.stem]
    else:
        assert size < 2e6


@each_config
def test_images_are_normalised_as_in_pretraining(path):
    preprocessor = Config.fromfile(path).model.data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor.get('to_rgb', False) != preprocessor.get('bgr_to_rgb', False)


@each_config
def test_variables_reach_the_places_where_they_act(path):
    cfg = Config.fromfile(path)
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
