#!/usr/bin/env bash
# mmsegmentation 1.2.2: mFscore and mDice of one prediction differ, though F1 and Dice are one formula.
#
# Expected: 2 TP / (2 TP + FP + FN) by either name, averaged over the same classes.
# What happens: mFscore divides by the precision and the recall of a class, which is 0 / 0 where no pixel of
# the class is right, and the average leaves NaN out. mDice counts such a class as 0. So a model that finds
# nothing but the background gets the background's own score as its mean over all classes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine==0.10.7 torch==2.11.0 \
    torchvision==0.26.0 numpy==2.4.6 opencv-python-headless==4.13.0.92 setuptools==80.9.0 ftfy regex
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import importlib.metadata
import sys
import types

import mmcv
import torch


class Operators(types.ModuleType):
    """mmcv's compiled operators, which this build lacks and the metric does not need."""

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return None


sys.modules['mmcv._ext'] = mmcv._ext = Operators('mmcv._ext')

from mmseg.evaluation import IoUMetric

print('mmsegmentation', importlib.metadata.version('mmsegmentation'))
annotated = torch.tensor([0] * 80 + [1] * 10 + [2] * 10).reshape(1, 10, 10)


def measure(predicted):
    metric = IoUMetric(iou_metrics=['mDice', 'mFscore'])
    metric.dataset_meta = dict(classes=('background', 'a', 'b'))
    metric.process({}, [dict(pred_sem_seg=dict(data=predicted), gt_sem_seg=dict(data=annotated))])
    found = metric.evaluate(1)
    return round(float(found['mDice']), 2), round(float(found['mFscore']), 2)


nothing = measure(torch.zeros_like(annotated))
print(f'\nbackground alone: mDice {nothing[0]}, mFscore {nothing[1]} (expected: the same)')
assert nothing == (29.63, 88.89), 'changed'
swapped = measure(torch.where(annotated > 0, 3 - annotated, annotated))
print(f'both classes taken for each other: mDice {swapped[0]}, mFscore {swapped[1]}')
assert swapped == (33.33, 100.0), 'changed'
PYTHON
echo 'As described: classes without a right pixel are left out of mFscore.'
