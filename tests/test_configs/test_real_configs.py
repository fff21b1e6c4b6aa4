# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The configs of four public data sets, on made-up images in the same layouts."""

import json

import numpy as np
import pytest
import torch
from families import CONFIGS, SETS, name_of
from mmengine.config import Config
from mmengine.runner import Runner

from made_up_sets import NUCLEI, write_camvid, write_cifar10, write_nuclei, write_voc
from mmdmformer.datasets.to_coco import masks_to_coco, split_folders
from mmdmformer.engine.model import build_model

FILES = sorted(path for name in SETS for path in (CONFIGS / name).glob('*.py'))
NANO = [path for path in FILES if '-nano_' in path.stem]
OBJECTS = [
    ('RBC', (20, 30, 120, 140), False),
    ('WBC', (200, 100, 420, 330), False),
    ('Platelets', (500, 400, 535, 433), False),
    ('RBC', (300, 300, 300, 300), False),  # BCCD has two such boxes
]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """All four sets, prepared as the tools prepare them."""
    root = tmp_path_factory.mktemp('data')
    write_cifar10(root / 'cifar10')
    for split, lines in split_folders(root / 'cifar10/train').items():
        (root / f'cifar10/{split}.txt').write_text('\n'.join(lines))
    write_voc(root / 'bccd', OBJECTS)
    masks = np.zeros((20, 256, 300), bool)
    for i, mask in enumerate(masks):
        mask[10 + 50 * (i % 4) : 30 + 50 * (i % 4), 8 + 60 * (i // 4) : 30 + 60 * (i // 4)] = True
    write_nuclei(root / 'nuclei/stage1_train', masks)
    (root / 'nuclei/annotations').mkdir()
    for split, name in NUCLEI.items():
        content = masks_to_coco(root / 'nuclei/stage1_train', [name], 'nucleus')
        (root / f'nuclei/annotations/{split}.json').write_text(json.dumps(content))
    write_camvid(root / 'camvid')
    return root


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_models_have_the_classes_of_their_data(path):
    cfg = Config.fromfile(path)
    widths = {'num_classes': set(), 'ignore_index': set(), 'seg_pad_val': set()}

    def visit(node):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if key in widths:
                widths[key].add(value)
            if isinstance(value, (dict, list, tuple)):
                visit(value)

    visit(cfg.to_dict())
    assert widths['num_classes'] == {len(cfg.classes)}
    if cfg.default_scope == 'mmseg':  # head, padding, crops, data set and metric
        assert widths['ignore_index'] | widths['seg_pad_val'] == {len(cfg.classes)}
    for split in ('train', 'val', 'test'):
        assert cfg[f'{split}_dataloader'].dataset.metainfo.classes == cfg.classes
    cfg.model.backbone.init_cfg.checkpoint = None
    size = sum(parameter.numel() for parameter in build_model(cfg).parameters())
    assert (size < 2e6) == ('nano' in path.stem)


def test_rows_from_scratch_differ_in_the_checkpoint_alone():
    for path in FILES:
        if '-scratch' in path.stem:
            cfg = Config.fromfile(path)
            other = Config.fromfile(path.with_name(path.name.replace('-scratch', '')))
            assert cfg.model.backbone.init_cfg.checkpoint is None
            assert other.model.backbone.init_cfg.checkpoint is not None
            cfg.model.backbone.pop('init_cfg')
            other.model.backbone.pop('init_cfg')
            assert cfg.to_dict() == other.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize('path', NANO, ids=name_of)
def test_nano_trains_validates_and_tests(path, data, tmp_path):
    cfg = Config.fromfile(path)
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = path.stem
    cfg.model.backbone.init_cfg.checkpoint = None
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(data / path.parent.name)
        if path.parent.name == 'nuclei' and split != 'train':
            annotations = data / 'nuclei' / loader.dataset.ann_file
            cfg[f'{split}_evaluator'].ann_file = str(annotations)
    if path.parent.name == 'cifar10':
        cfg.train_dataloader.dataset.indices = 64
    if cfg.default_scope == 'mmseg':
        cfg.train_cfg.update(max_iters=1, val_interval=1)
        cfg.train_dataloader.batch_size = 2
    else:
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
    runner = Runner.from_cfg(cfg)
    before = {name: p.clone() for name, p in runner.model.state_dict().items()}
    runner.train()
    after = runner.model.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert any((after[name] != before[name]).any() for name in before)
    metrics = runner.test()
    expected = dict(
        cifar10=['accuracy/top1'],
        bccd=['coco/bbox_mAP_50', 'pascal_voc/AP50'],
        nuclei=['coco/segm_mAP_50', 'coco/bbox_mAP_50'],
        camvid=['mIoU'],
    )
    assert set(expected[path.parent.name]) <= metrics.keys()


def test_void_pixels_of_camvid_teach_nothing(data):
    cfg = Config.fromfile(CONFIGS / 'camvid/dmformer-nano_sem-fpn_camvid.py')
    head = build_model(cfg).decode_head
    logits = torch.randn(1, 11, 8, 8, requires_grad=True)
    labels = torch.randint(0, 11, (1, 1, 32, 32))
    labels[..., :16, :] = 11
    loss = head.loss_by_feat(logits, [_sample(labels[0])])['loss_ce']
    loss.backward()
    assert (logits.grad[..., :3, :] == 0).all() and (logits.grad[..., 5:, :] != 0).any()


def _sample(labels):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    return SegDataSample(gt_sem_seg=PixelData(data=labels))
