#!/usr/bin/env bash
# mmpretrain 1.2.0: mAP of multi-label predictions depends on classes that do not occur, and on ties' order.
#
# Expected: the mean of average precisions over the classes that have a positive label, the others having
# none (scikit-learn: undefined), and one value for one set of predictions.
# What happens: a class without a positive label counts as 0, so a perfect prediction of 4 of 5 classes is
# 80, whatever the fifth. And equal scores, as half precision or int8 give many, are ranked in the order of
# the samples: the same predictions, listed in another order, have another mAP.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mmpretrain==1.2.0 mmcv-lite==2.1.0 mmengine==0.10.7 torch==2.11.0 \
    torchvision==0.26.0 numpy==2.4.6 opencv-python-headless==4.13.0.92 setuptools==80.9.0 scikit-learn==1.7.2
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import importlib.metadata

import torch
from mmpretrain.evaluation import AveragePrecision
from sklearn.metrics import average_precision_score

print('mmpretrain', importlib.metadata.version('mmpretrain'))
labels = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]])
perfect = float(AveragePrecision.calculate(labels.float(), labels))
print(f'\nperfect prediction, the fifth class occurs nowhere: mAP {perfect} (expected: 100)')
assert perfect == 80, 'changed'

label, score = torch.tensor([1, 1, 0, 0]), torch.tensor([0.5, 0.5, 0.5, 0.5])
first, second = (
    float(AveragePrecision.calculate(score[order, None], label[order, None]))
    for order in ([0, 1, 2, 3], [2, 3, 0, 1])
)
expected = 100 * average_precision_score(label, score)
print(f'\nfour equal scores: {first:.1f} or {second:.1f} by the order of samples (scikit-learn: {expected:.1f})')
assert first == 100 and round(second, 1) == 41.7 and expected == 50, 'changed'
PYTHON
echo 'As described: absent classes and the order of samples are in the mAP.'
