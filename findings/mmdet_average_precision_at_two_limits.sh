#!/usr/bin/env bash
# mmdet 3.3.0 with pycocotools 2.0.11: one table holds AP at two limits of detections.
#
# Expected: CocoMetric's bbox_mAP and bbox_mAP_50 count the same detections, as proposal_nums says, so that
# no AP at one IoU is far from the mean over IoUs where every box is exact.
# What happens: pycocotools' first number, which becomes bbox_mAP, is at 100 detections in an image whatever
# the limits are, and the others are at the last limit (1000 by default). An image of 300 objects that are
# all found exactly scores bbox_mAP 0.337 beside bbox_mAP_50 1.0 and bbox_mAP_75 1.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install -q "$@"; }
pip torch==2.11.0 torchvision==0.26.0 numpy==2.4.6 setuptools==80.10.2 opencv-python-headless==4.14.0.94
pip mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0 pycocotools==2.0.11
"$folder/venv/bin/python" - "$folder/objects.json" <<'PYTHON'
import json
import sys
import types

import mmcv


class Operators(types.ModuleType):
    """mmcv's compiled operators, which this build lacks and this metric does not need."""

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return None


sys.modules['mmcv._ext'] = mmcv._ext = Operators('mmcv._ext')

import mmdet  # noqa: E402
import torch  # noqa: E402
from mmdet.evaluation import CocoMetric  # noqa: E402


def evaluate(number):
    """One image whose ``number`` objects are all found exactly."""
    boxes = [[20 * (i % 20), 20 * (i // 20), 10, 10] for i in range(number)]
    annotations = [
        dict(id=n, image_id=1, category_id=1, bbox=box, area=100, iscrowd=0)
        for n, box in enumerate(boxes, 1)
    ]
    images = [dict(id=1, width=400, height=400, file_name='1.jpg')]
    categories = [dict(id=1, name='thing')]
    with open(sys.argv[1], 'w') as file:
        json.dump(dict(images=images, annotations=annotations, categories=categories), file)
    metric = CocoMetric(ann_file=sys.argv[1], metric='bbox')
    metric.dataset_meta = dict(classes=('thing',))
    found = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes]).float()
    scores = torch.linspace(0.9, 0.8, number)
    found = dict(bboxes=found, scores=scores, labels=torch.zeros(number, dtype=torch.long))
    metric.process({}, [dict(img_id=1, ori_shape=(400, 400), pred_instances=found)])
    values = metric.evaluate(size=1)
    return tuple(values[f'coco/bbox_{name}'] for name in ('mAP', 'mAP_50', 'mAP_75'))


print('mmdet', mmdet.__version__)
seen = {number: evaluate(number) for number in (100, 300)}
for number, values in seen.items():
    print(f'{number} objects, mAP, mAP_50, mAP_75: {values}')
assert seen == {100: (1.0, 1.0, 1.0), 300: (0.337, 1.0, 1.0)}, seen
PYTHON
echo 'As described: the mean is at 100 detections, the others are at 1000.'
