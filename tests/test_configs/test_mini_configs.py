# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The mini configs: what they change, and a step of training, validation and testing of each."""

import math
import re
from pathlib import Path

import pytest
import torch
from families import CONFIGS, FAMILIES, MINI, bases_of, is_mini_variant, name_of
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from mini_data import CLASSES, SEG_CLASSES

VARIANTS = [path for path in MINI if is_mini_variant(path)]
MAIN = [path for path in MINI if path not in VARIANTS]
AUGMENTED = [path for path in MAIN if not path.stem.startswith('mask-rcnn')]
STEP = r'_pipeline|_dataloader\.dataset\.pipeline'
MAY_DIFFER = {
    'data': rf"""
        data_root|(classes|palette|resizes)\..*|image_size|image_scale\.\d|ratio_range\.\d|crop_area\.\d|dataset\..*
        (train|val|test)_dataloader\.dataset\.(type|data_root|metainfo\..*)
        (train|val|test)_dataloader\.dataset\.(img_suffix|seg_map_suffix|reduce_zero_label)
        (train|val|test|tta)({STEP})(\.\w+)*\.(scale|crop_size|crop_ratio_range|ratio_range)(\.\d)?
        train({STEP})\.\d\.(prob|erase_prob|magnitude_level)
        (val|test)_evaluator\.ann_file
        model\.data_preprocessor\.(num_classes|size\.\d)
        model\.(\w+\.)*num_classes
    """,
    'width': r"""
        drop_path_rate|patch_size|window_size|model\.backbone\.(arch|drop_path_rate)
        model\.backbone\.(img_size|patch_size|window_size|pad_small_map)
        model\.(\w+\.)*(in|out|feat|conv_out|fc_out)_channels(\.\d)?
        model\.(\w+\.)*(channels|stacked_convs|num_convs)
    """,
    'length': r"""
        ema_momentum|custom_hooks\.\d\.momentum
        lr|max_epochs|max_iters|warmup_epochs|warmup_iters|milestones\.\d
        optim_wrapper\.optimizer\.lr
        param_scheduler\.\d\.(begin|end|T_max|milestones\.\d)
        train_cfg\.(max_epochs|max_iters|val_interval)
        default_hooks\.(logger|checkpoint)\.interval
    """,
    'batch': r"""
        batch_size|num_workers|loader\..*|auto_scale_lr\.base_batch_size
        (train|val|test)_dataloader\.(batch_size|num_workers|persistent_workers)
    """,
}

MAIN_METRIC = dict(mmpretrain='accuracy/top1', mmdet='coco/bbox_mAP', mmseg='mIoU')
each_main_config = pytest.mark.parametrize('path', MAIN, ids=name_of)


def flatten(node, path=''):
    """Map the dotted path of every value below ``node`` to it."""
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    else:
        return {path: node}
    found = {}
    for key, child in items:
        found.update(flatten(child, f'{path}.{key}' if path else str(key)))
    return found


@each_main_config
def test_config_changes_data_width_length_and_batch_alone(path):
    cfg = Config.fromfile(path)
    (base,) = bases_of(path)
    parent = Config.fromfile(base)
    ours, theirs = flatten(cfg.to_dict()), flatten(parent.to_dict())
    missing = object()
    changed = {
        key
        for key in ours.keys() | theirs.keys()
        if ours.get(key, missing) != theirs.get(key, missing)
    }
    allowed = re.compile('|'.join('|'.join(rules.split()) for rules in MAY_DIFFER.values()))
    assert sorted(key for key in changed if not allowed.fullmatch(key)) == []
    assert cfg.model.backbone.arch == 'nano'


def test_there_is_a_variant_for_each_token_mixer():
    assert {path.stem for path in VARIANTS} == set(FAMILIES['metaformer'].nano)


@pytest.mark.parametrize('path', VARIANTS, ids=name_of)
def test_variant_changes_its_token_mixer_and_arch_alone(path):
    cfg = Config.fromfile(path)
    (base,) = bases_of(path)
    ours, theirs = (flatten(c.to_dict()) for c in (cfg, Config.fromfile(base)))
    changed = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    allowed = re.compile(
        r'model\.backbone\.(type|arch(\.\w+)*|mixer\.\w+)|optim_wrapper\.paramwise_cfg\.custom_keys\..*'
    )
    assert sorted(key for key in changed if not allowed.fullmatch(key)) == []
    assert cfg.model.backbone.arch.embed_dims == (16, 32, 80, 128)


@each_main_config
def test_config_names_the_classes_of_the_built_in_data(path):
    cfg = Config.fromfile(path)
    classes = SEG_CLASSES if cfg.default_scope == 'mmseg' else CLASSES
    assert tuple(cfg.classes) == classes
    counts = {value for key, value in flatten(cfg.model.to_dict()).items() if 'num_classes' in key}
    assert counts == {len(classes)}


@pytest.fixture(scope='session')
def short_config(mini_data, tmp_path_factory):
    """Reads a config for one step of training on a few images and one of validation."""

    def read(path):
        cfg = Config.fromfile(path)
        cfg.work_dir = str(tmp_path_factory.mktemp(path.stem))
        root = {'mmpretrain': 'imagenet', 'mmdet': 'coco', 'mmseg': 'ade/ADEChallengeData2016'}
        for split in ('train', 'val', 'test'):
            loader = cfg[f'{split}_dataloader']
            # A classifier's last maps may be of one pixel, and two such are no batch to norms.
            size = 4 if (split, cfg.default_scope) == ('train', 'mmpretrain') else 2
            loader.update(batch_size=size, num_workers=0, persistent_workers=False)
            loader.dataset.update(
                data_root=str(mini_data / root[cfg.default_scope]),
                indices=size if split == 'train' else 4,
            )
            if split != 'train' and cfg.default_scope == 'mmdet':
                # The whole set: COCO's metric wants a prediction for each image.
                loader.dataset.pop('indices')
                annotations = f'{loader.dataset.data_root}/{loader.dataset.ann_file}'
                cfg[f'{split}_evaluator'].ann_file = annotations
        if cfg.model.type == 'RetinaNet':
            cfg.model.test_cfg.score_thr = 0.0  # after one step no score is high
        if cfg.default_scope == 'mmseg':
            cfg.train_cfg.update(max_iters=1, val_interval=1)
        else:
            cfg.train_cfg.update(max_epochs=1, val_interval=1)
        cfg.experiment_name = f'{path.stem}_{id(cfg)}'
        return cfg

    return read


@each_main_config
def test_config_trains_every_parameter_and_validates(path, short_config):
    cfg = short_config(path)
    runner = Runner.from_cfg(cfg)
    runner.train()
    model = runner.model
    batch = model.data_preprocessor(next(iter(runner.train_dataloader)), training=True)
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    assert math.isfinite(loss.item())
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    metrics = runner.val_loop.run()
    best = MAIN_METRIC[cfg.default_scope]
    assert best in metrics
    assert len(list(Path(cfg.work_dir).glob(f'best_{best.replace("/", "_")}*.pth'))) == 1


@pytest.mark.parametrize('path', AUGMENTED, ids=name_of)
def test_config_tests_with_augmentation(path, short_config):
    cfg = short_config(path)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    runner = Runner.from_cfg(cfg)
    data = next(iter(runner.test_dataloader))
    sizes = len(cfg.get('test_ratios', [1]))
    assert len(data['inputs']) == 2 * sizes  # as they are, and mirrored
    assert {len(images) for images in data['inputs']} == {2}  # of the batch
    metrics = runner.test()
    assert MAIN_METRIC[cfg.default_scope] in metrics


@pytest.mark.parametrize(
    'name, root, expected',
    [
        ('dmformer-s_8xb128_in1k', 'imagenet', (3, 224, 224)),
        ('retinanet_dmformer-s_fpn_8xb2-1x_coco', 'coco', (3, 800, 800)),
        ('mask-rcnn_dmformer-s_fpn_8xb2-1x_coco', 'coco', (3, 800, 800)),
        (
            'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512',
            'ade/ADEChallengeData2016',
            (3, 512, 512),
        ),
    ],
)
def test_production_pipelines_read_the_built_in_data_unchanged(name, root, expected, mini_data):
    cfg = Config.fromfile(CONFIGS / 'dmformer' / f'{name}.py')
    init_default_scope(cfg.default_scope)
    for split in ('train', 'val'):
        settings = cfg[f'{split}_dataloader'].dataset
        settings.data_root = str(mini_data / root)
        if cfg.default_scope != 'mmseg':
            settings.metainfo = dict(classes=CLASSES)
        sample = DATASETS.build(settings)[0]
        shape = tuple(sample['inputs'].shape)
        if cfg.default_scope == 'mmseg' and split == 'train':
            # A crop of an image that may have been made smaller; the preprocessor pads it.
            assert shape[0] == 3 and max(shape) <= 512
        else:
            assert shape == expected
