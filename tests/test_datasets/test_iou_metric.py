# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mIoU beside mmseg's own, and beside NumPy and scikit-learn where mmseg's are wrong."""

import numpy as np
import pytest
import torch
from mmengine.registry import METRICS, DefaultScope
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from sklearn.metrics import fbeta_score

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
    assert len(ours) == 7 and ours['mFscore'] == ours['mDice']
    if ignored == 4:  # mmseg's leaves out class 4, which is predicted, and annotated nowhere
        del ours['mFscore'], theirs['mFscore']
    assert ours == pytest.approx(theirs, nan_ok=True)
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


@pytest.mark.parametrize('beta', [1, 2])
@pytest.mark.parametrize('predicts', [(0,), (0, 2, 3), (0, 1, 2, 3)])
def test_class_without_a_right_pixel_counts_in_the_f_score(predicts, beta):
    """Never predicted, or at other places only; mmseg leaves such classes out."""
    annotated = np.array([0] * 80 + [1] * 10 + [2] * 10)
    predicted = np.where(np.isin(annotated, predicts), annotated, 0)
    predicted[: len(predicts) - 1] = predicts[1:]  # class 3 is annotated nowhere
    metric = IoUMetric(iou_metrics=['mDice', 'mFscore'], beta=beta)
    found = evaluate(metric, [(predicted[None], annotated[None])], 5)
    expected = fbeta_score(annotated, predicted, beta=beta, average='macro', zero_division=0)
    assert found['mFscore'] == round(100 * expected, 2)
    if beta == 1:
        assert found['mFscore'] == found['mDice']
    if predicts == (0,):
        theirs = MMSegIoUMetric(iou_metrics=['mFscore'], beta=beta)
        left_out = evaluate(theirs, [(predicted[None], annotated[None])], 5)['mFscore']
        assert left_out > 2 * found['mFscore']  # the background's alone
