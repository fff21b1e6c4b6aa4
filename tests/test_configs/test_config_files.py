# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Every config file: it parses, survives a round trip, is short, and names no machine's folders."""

from pathlib import Path

import pytest
from families import (
    CONFIGS,
    FAMILIES,
    FILES,
    MINI,
    SETS,
    VARIANTS,
    bases_of,
    family_of,
    is_mini_variant,
    is_production,
    main_config_of,
    name_of,
    network_of,
    recipe_of,
)
from mmengine.config import Config

DATA_ROOTS = {
    'mmpretrain': 'data/imagenet',
    'mmdet': 'data/coco',
    'mmseg': 'data/ade/ADEChallengeData2016',
}

each_config = pytest.mark.parametrize('path', FILES, ids=name_of)
each_variant = pytest.mark.parametrize('path', VARIANTS, ids=name_of)


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


def test_the_families_are_all_there_are():
    folders = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    # tests/test_selfsup is about the one for pretraining
    assert folders - {'_base_', 'mini', 'spark', *SETS} == set(FAMILIES)


@pytest.mark.parametrize('name', FAMILIES)
def test_every_experiment_has_a_config(name):
    experiments = FAMILIES[name].experiments
    expected = {stem.format(gap) for stem, gaps in experiments.items() for gap in gaps}
    assert {path.stem for path in (CONFIGS / name).glob('*.py')} == expected


def test_there_is_a_mini_config_of_each_recipe():
    mains = [path for path in MINI if not is_mini_variant(path)]
    inherited = [base for path in mains for base in bases_of(path)]
    assert set(inherited) == {
        CONFIGS / name / f'{stem}.py'
        for name, family in FAMILIES.items()
        for stem in family.with_mini_config
    }
    assert all(family.with_mini_config <= set(family.recipes) for family in FAMILIES.values())


@each_variant
def test_variant_is_a_few_lines_over_its_sibling(path):
    main = main_config_of(path)
    assert bases_of(path) == [main]
    recipe = path.stem.replace(network_of(path), '').replace('-layer-decay', '')
    assert recipe == main.stem.replace(network_of(main), '')
    assert len(path.read_text().splitlines()) <= 16


def with_mixer_inlined(backbone):
    mixer = backbone.get('mixer', {})
    if isinstance(mixer, list):  # one for each stage
        return backbone
    return {**backbone, **mixer, 'mixer': None}


@each_variant
def test_variant_changes_its_backbone_or_its_layer_decay_alone(path):
    cfg, sibling = Config.fromfile(path), Config.fromfile(main_config_of(path))
    ours, theirs = (with_mixer_inlined(c.model.backbone) for c in (cfg, sibling))
    changed = {key for key, value in ours.items() if value != theirs.get(key, None)}
    if 'layer-decay' in path.stem:
        assert changed == set()
        settings = cfg.optim_wrapper
        assert settings.pop('constructor') == 'LayerDecayOptimWrapperConstructor'
        assert settings.paramwise_cfg.pop('layer_decay_rate') == cfg.pop('layer_decay_rate') == 0.9
        if not settings.paramwise_cfg and 'paramwise_cfg' not in sibling.optim_wrapper:
            settings.pop('paramwise_cfg')
    else:
        assert changed in family_of(path).variants
        if 'drop_path_rate' in changed:
            cfg.drop_path_rate = sibling.drop_path_rate  # the variable that the backbone takes
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
    if not is_production(path):
        root = root.replace('data/', 'data/mini/')
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.data_root == root == cfg.data_root


@each_config
def test_config_needs_no_toolbox_beside_its_own(path):
    cfg = Config.fromfile(path)
    assert cfg.custom_imports == dict(imports=['mmdmformer.prepared'], allow_failed_imports=False)
    assert not [text for text in strings(cfg.to_dict()) if '::' in text]
    packages = {name.split('.')[0] for name in types(cfg.to_dict()) if '.' in name}
    assert packages <= {'mmdmformer'}


@each_config
def test_images_are_normalized_as_in_pretraining(path):
    preprocessor = Config.fromfile(path).model.data_preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor.get('to_rgb', False) != preprocessor.get('bgr_to_rgb', False)


@each_config
def test_variables_reach_the_places_where_they_act(path):
    cfg = Config.fromfile(path)
    assert (recipe_of(path).drop_path_rate is None) == ('drop_path_rate' not in cfg)
    assert cfg.train_dataloader.batch_size == cfg.batch_size
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].num_workers == cfg.num_workers
    assert cfg.model.backbone.init_cfg == dict(type='CheckedPretrained', checkpoint=cfg.pretrained)
    assert cfg.model.backbone.get('drop_path_rate') == cfg.get('drop_path_rate')
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
