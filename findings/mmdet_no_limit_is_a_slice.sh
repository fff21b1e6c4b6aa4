#!/usr/bin/env bash
# mmdet 3.3.0: max_per_img=-1 does not lift the limit of detections; it drops the worst one.
#
# Expected: as -1 means "no limit" in mmcv (max_num of nms) and in other toolboxes, a detector with
# max_per_img=-1 in its test_cfg hands over all boxes that are left after suppression.
# What happens: dense heads cut the sorted boxes by [:max_per_img], so -1 leaves out the box with the
# lowest score of each image, in silence. A limit that is never reached keeps all.
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
import torch
from torchvision.ops import nms


class Operators(types.ModuleType):
    """mmcv's compiled operators, which this build lacks: suppression from torchvision."""

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return None


operators = Operators('mmcv._ext')
operators.nms = lambda boxes, scores, iou_threshold, offset: nms(boxes, scores, iou_threshold)
sys.modules['mmcv._ext'] = mmcv._ext = operators

import mmdet  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402
from mmdet.models.dense_heads import RetinaHead  # noqa: E402

print('mmdet', mmdet.__version__)
head = RetinaHead(num_classes=2, in_channels=8)
boxes = torch.tensor([[0.0, 0, 9, 9], [20, 20, 40, 40], [50, 50, 70, 70]])
scores = torch.tensor([0.9, 0.8, 0.7])


def count(limit):
    found = InstanceData(bboxes=boxes.clone(), scores=scores.clone(), labels=torch.tensor([0, 1, 0]))
    test = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=limit)
    return len(head._bbox_post_process(found, test, img_meta={}))


counts = {limit: count(limit) for limit in (100, 3, -1)}
print('boxes by max_per_img:', counts)
assert counts == {100: 3, 3: 3, -1: 2}, counts
PYTHON
echo 'As described: max_per_img=-1 drops a box.'
