#!/usr/bin/env bash
# mmdet 3.3.0: RandomCrop(recompute_bbox=True) keeps objects of which the crop shows no pixel, and they train to NaN.
#
# Expected: an object that the crop does not show is left out, as RandomCrop leaves out one whose box lies
# outside the crop.
# What happens: the objects are chosen by their boxes before the crop, and the boxes are computed from the masks
# after it. Where a box reaches into the crop and its mask does not, the object stays with the box (0, 0, 0, 0).
# A two-stage detector takes annotated boxes as proposals too, and the offsets from such a box to itself are NaN.
# (FilterAnnotations after RandomCrop, as in mmdet's own configs of large-scale jitter, leaves such objects out.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install -q "$@"; }
pip torch==2.11.0 torchvision==0.26.0 numpy==2.4.6 setuptools==80.10.2 opencv-python-headless==4.14.0.94
pip mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import types

import mmcv


class Operators(types.ModuleType):
    """mmcv's compiled operators, which this build lacks and this transform does not need."""

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return None


sys.modules['mmcv._ext'] = mmcv._ext = Operators('mmcv._ext')

import mmdet  # noqa: E402
import numpy as np  # noqa: E402
from mmdet.datasets.transforms import FilterAnnotations, RandomCrop  # noqa: E402
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder  # noqa: E402
from mmdet.structures.bbox import HorizontalBoxes  # noqa: E402
from mmdet.structures.mask import BitmapMasks, PolygonMasks  # noqa: E402

SIDE = 64
# Two triangles, each half of its box: one in the upper left corner, one in the lower right.
POLYGONS = [[0, 0, 40, 0, 0, 40], [60, 20, 60, 60, 20, 60]]


class Corner(RandomCrop):
    """Crops the upper left corner."""

    def _rand_offset(self, margin):
        return 0, 0


def annotated(kind):
    """A picture and its two objects."""
    masks = PolygonMasks([[np.array(p, float)] for p in POLYGONS], SIDE, SIDE)
    if kind == 'bitmaps':
        masks = BitmapMasks(list(masks.to_ndarray()), SIDE, SIDE)
    boxes = HorizontalBoxes([[0.0, 0.0, 40.0, 40.0], [20.0, 20.0, 60.0, 60.0]])
    labels = np.zeros(2, np.int64)
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    return dict(img=picture, gt_bboxes=boxes, gt_bboxes_labels=labels, gt_masks=masks)


print('mmdet', mmdet.__version__)
for kind in ('bitmaps', 'polygons'):
    cut = Corner(crop_size=(32, 32), recompute_bbox=True).transform(annotated(kind))
    boxes = cut['gt_bboxes'].tensor
    offsets = DeltaXYWHBBoxCoder().encode(boxes, boxes)
    print(f'{kind}: boxes {boxes.tolist()}, pixels {cut["gt_masks"].areas.tolist()}')
    print(f'{kind}: offsets of each box to itself {offsets.tolist()}')
    kept = FilterAnnotations().transform(cut)['gt_bboxes'].tensor
    assert boxes[1].tolist() == [0, 0, 0, 0] and offsets[1].isnan().all(), kind
    assert not offsets[0].isnan().any() and len(kept) == 1, kind
PYTHON
echo 'As described: the object that the crop does not show stays, and its offsets are NaN.'
