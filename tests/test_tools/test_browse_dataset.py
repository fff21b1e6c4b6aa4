# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What browse_dataset draws is the image with its annotations, in each toolbox."""

from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config

from analysis_tools.browse_dataset import READABLE, build, draw
from made_up_sets import write_camvid, write_cifar10, write_voc
from mmdmformer.datasets.to_coco import split_folders
from mmdmformer.engine.runtime import prepare

VOID = 11
CONFIGS = Path(__file__).parents[2] / 'configs'


def drawn(config, root, steps, folder):
    """The first image of the training data, and its picture; both RGB."""
    prepare()
    cfg = Config.fromfile(CONFIGS / config)
    cfg.train_dataloader.dataset.update(data_root=str(root), pipeline=steps)
    dataset, visualizer = build(cfg)
    item = dataset[0]
    draw(visualizer, item, 'a', show=False, wait_time=0, out_file=str(folder / 'a.png'))
    image = cv2.imread(item['data_samples'].img_path)[..., ::-1]
    return image, cv2.imread(str(folder / 'a.png'))[..., ::-1]


def test_boxes(tmp_path):
    write_voc(
        tmp_path, [('RBC', (100, 100, 200, 180), False), ('WBC', (300, 200, 600, 400), False)]
    )
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
    steps.append(dict(type='PackDetInputs'))
    config = 'bccd/retinanet_dmformer-nano_fpn_bccd.py'
    image, picture = drawn(config, tmp_path, steps, tmp_path)
    changed = (image != picture).any(-1)
    assert changed[100:180, 97:102].all(-1).any() and changed[300, 295:305].any()
    outside = np.ones_like(changed)
    outside[90:190, 90:210] = outside[190:410, 290:610] = False
    assert not changed[outside].any()


def test_labels(tmp_path):
    write_camvid(tmp_path)
    steps = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    steps.append(dict(type='PackSegInputs'))
    config = 'camvid/dmformer-nano_sem-fpn_camvid.py'
    image, picture = drawn(config, tmp_path, steps, tmp_path)
    labels = cv2.imread(str(tmp_path / 'annotations/train/0.png'), 0)
    cfg = Config.fromfile(CONFIGS / config)
    palette, alpha = cfg.train_dataloader.dataset.metainfo.palette, cfg.visualizer.get('alpha', 0.8)
    for label in np.unique(labels):
        place = labels == label
        color = [0, 0, 0] if label == VOID else palette[label]
        expected = (1 - alpha) * image + alpha * np.array(color)
        error = np.abs(picture - expected).max(-1)[place]
        assert np.median(error) <= 1, label  # names of classes lie over some


def test_classes(tmp_path):
    write_cifar10(tmp_path)
    for split, lines in split_folders(tmp_path / 'train').items():
        (tmp_path / f'{split}.txt').write_text('\n'.join(lines))
    steps = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    image, picture = drawn('cifar10/dmformer-nano_cifar10.py', tmp_path, steps, tmp_path)
    assert picture.shape == (READABLE, READABLE, 3)
    plain = cv2.resize(image, (READABLE, READABLE))
    changed = np.abs(picture.astype(int) - plain).max(-1) > 8
    assert changed[:40].mean() > 0.2 and changed[60:].mean() < 0.01
