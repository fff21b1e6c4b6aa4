# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Heads with another number of classes than the data."""

from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.engine.errors import UsageError

MINI = Path(__file__).parents[2] / 'configs/mini'
DETECTOR = 'retinanet_dmformer-nano_fpn_mini-coco'
MASKS = 'mask-rcnn_dmformer-nano_fpn_mini-coco'


@pytest.mark.parametrize(
    ('config', 'key', 'count', 'classes'),
    [
        ('dmformer-nano_mini-imagenet', 'model.head.num_classes', 1000, 10),
        (DETECTOR, 'model.bbox_head.num_classes', 9, 10),
        (DETECTOR, 'model.bbox_head.num_classes', 80, 10),
        (MASKS, 'model.roi_head.mask_head.num_classes', 80, 10),
        ('dmformer-nano_sem-fpn_mini-ade20k', 'model.decode_head.num_classes', 150, 11),
    ],
)
def test_mismatch_ends_a_run_before_its_first_step(
    config, key, count, classes, python, mini_data, tmp_path
):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/mini').symlink_to(mini_data)
    args = [MINI / f'{config}.py', '--work-dir', 'work', '--cfg-options', f'{key}={count}']
    result = python('mmdmformer.train', *args, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f'error: {key}={count} does not fit the {classes} classes of train_dataloader.dataset: set '
        f'num_classes to {classes}, or metainfo.classes of the data set to those of the head, or '
        'refuse=False of ClassCountHook if they are to differ.'
    )


class Head(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(1, 1)
        self.num_classes = num_classes


class Detector(BaseModel):
    """A cascade of two stages; ``loss`` is no head."""

    def __init__(self, stages):
        super().__init__()
        self.rpn_head, self.loss = Head(1), Head(7)
        self.roi_head = nn.Module()
        self.roi_head.bbox_head = nn.ModuleList(map(Head, stages))

    def forward(self, inputs, mode):
        return dict(loss=self.rpn_head(torch.stack(inputs)).sum())


class Data(torch.utils.data.Dataset):
    def __init__(self, metainfo):
        self.metainfo = metainfo

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1))


def train(folder, stages, metainfo):
    loader = dict(dataset=Data(metainfo), sampler=dict(type='DefaultSampler'), batch_size=1)
    runner = Runner(
        Detector(stages),
        str(folder),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='ClassCountHook')],
        experiment_name=str(folder),
    )
    runner.train()
    return runner.iter


@pytest.mark.parametrize(
    ('stages', 'classes', 'message'),
    [
        ((2, 3), ('a', 'b'), 'model.roi_head.bbox_head.1.num_classes=3 does not fit the 2'),
        ((4, 4), 'cell', r"is the text 'cell' instead of a tuple of names: write \('cell',\)"),
    ],
)
def test_every_stage_is_compared(stages, classes, message, tmp_path):
    with pytest.raises((UsageError, BadInputError), match=message):
        train(tmp_path, stages, dict(classes=classes))


@pytest.mark.parametrize(
    ('stages', 'metainfo'),
    [
        ((2, 2), dict(classes=('a', 'b'))),
        ((2, 2), dict(classes=('a', 'b', 'sky'), thing_classes=('a', 'b'))),
        ((2, 3), {}),
        ((2, 3), dict(classes=None)),
    ],
)
def test_what_fits_or_is_not_said_trains(stages, metainfo, tmp_path):
    assert train(tmp_path, stages, metainfo) == 1
