#!/usr/bin/env bash
# mmsegmentation 1.2.2: its confusion matrix of a perfect prediction has other entries than the diagonal's.
#
# Expected: tools/analysis_tools/confusion_matrix.py counts each pixel in the row of its annotated class and
# the column of its predicted class, so labels compared with themselves fill the diagonal alone.
# What happens: the row's offset (classes x label) is computed in the labels' own 8 bits and wraps at 256.
# With the 19 classes of Cityscapes that concerns all labels from 13 on, with the 150 of ADE20K all from 2 on.
# A second effect: with reduce_zero_label the loader has taken the 1 off already, and the tool does so again,
# so that each class is counted as the one before it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine==0.10.7 torch==2.11.0 \
    torchvision==0.26.0 numpy==2.4.6 opencv-python-headless==4.13.0.92 setuptools==80.9.0 ftfy regex
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import importlib.metadata
import importlib.util
import pathlib
import runpy
import sys
import types

import mmcv
import numpy as np
from PIL import Image


class Operators(types.ModuleType):
    """mmcv's compiled operators, which this build lacks and the tool does not need."""

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return None


sys.modules['mmcv._ext'] = mmcv._ext = Operators('mmcv._ext')

package = pathlib.Path(importlib.util.find_spec('mmseg').origin).parent
tool = runpy.run_path(str(package / '.mim/tools/analysis_tools/confusion_matrix.py'))
from mmseg.registry import DATASETS

print('mmsegmentation', importlib.metadata.version('mmsegmentation'), 'numpy', np.__version__)
for name in ('images', 'labels'):
    pathlib.Path(name).mkdir()
labels = np.arange(19, dtype=np.uint8).repeat(10).reshape(19, 10)


def count(stored, **options):
    Image.fromarray(np.zeros((19, 10, 3), np.uint8)).save('images/a.png')
    Image.fromarray(stored).save('labels/a.png')
    load = dict(type='LoadAnnotations')
    dataset = DATASETS.build(
        dict(
            type='CityscapesDataset', data_prefix=dict(img_path='images', seg_map_path='labels'),
            img_suffix='.png', seg_map_suffix='.png',
            pipeline=[dict(type='LoadImageFromFile'), load, dict(type='PackSegInputs')], **options,
        )
    )
    return tool['calculate_confusion_matrix'](dataset, [labels])


matrix = count(labels)
right = int(np.trace(matrix))
print(f'\n{right} of {labels.size} pixels on the diagonal (expected: all)')
assert right == 130, 'changed'  # the 13 classes below 256 / 19
few = np.array([i if i < 13 else 0 for i in range(19)], np.uint8)[labels]
labels = few
shifted = count(few + 1, reduce_zero_label=True)
right = int(np.trace(shifted))
print(f'\nwith reduce_zero_label: {right} of {few.size} pixels on the diagonal (expected: all)')
assert right == 0, 'changed'
PYTHON
echo 'As described: perfect labels leave the diagonal.'
