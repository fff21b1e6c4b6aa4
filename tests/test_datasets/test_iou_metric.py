# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mIoU beside mmseg's own, and beside numpy where mmseg's counters end."""

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS, DefaultScope
from mmseg.evaluation import IoUMetric as MMSegIoUMetric

from mmdmformer.datasets.iou_metric import IoUMetric


def evaluate(metric, pairs, num_classes):
    metric.dataset_meta = dict(classes=tuple(f'class {i}' for i in range(num_classes)))
    for predicted, annotated in pairs:
        sample = dict(
            pred_sem_seg=dict(data=torch.as_tensor(predicted)[None]),
            gt_sem_seg=dict(data=torch.as_tensor(annotated)[None]),
        )
        metric.process({}, [sample])
    return metric.evaluate(len(pairs))


@pytest.mark.parametrize('kind', [torch.int64, torch.uint8, torch.float32])
@pytest.mark.parametrize('ignored', [255, 4])
def test_numbers_are_those_of_mmseg(ignored, kind):
    draw = np.random.default_rng(0)
    pairs = []
    for _ in range(3):
        annotated = draw.integers(0, 6, (40, 30))  # 5 is no class
        predicted = np.where(draw.random((40, 30)) < 0.6, annotated, draw.integers(0, 5, (40, 30)))
        annotated[:3] = 255
        pairs.append((torch.as_tensor(predicted).to(kind), annotated))
    settings = dict(iou_metrics=['mIoU', 'mDice', 'mFscore'], ignore_index=ignored)
    ours, theirs = (
        evaluate(metric(**settings), pairs, 5) for metric in (IoUMetric, MMSegIoUMetric)
    )
    assert ours == pytest.approx(theirs, nan_ok=True) and len(ours) == 7
    assert 30 < ours['mIoU'] < 70


def test_pixels_beyond_sixteen_million_are_counted():
    side, right = 5000, 0.6  # 25,000,000 pixels
    predicted = np.zeros((side, side), np.uint8)
    predicted[: int(side * (1 - right))] = 1
    annotated = np.zeros_like(predicted)
    intersection = np.sum((predicted == 0) & (annotated == 0))
    expected = 100 * np.array([intersection / annotated.size, 0]).mean()
    with DefaultScope.overwrite_default_scope('mmseg'):
        metric = METRICS.build(dict(type='mmdmformer.datasets.iou_metric.IoUMetric'))
    found = evaluate(metric, [(predicted, annotated)], 2)
    assert found['mIoU'] == round(expected, 2) == 30.0
    assert found['aAcc'] == 60.0
