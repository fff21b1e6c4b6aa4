#!/usr/bin/env bash
# mmdet 3.3.0 with numpy 2.4.6: CocoMetric(metric='proposal_fast') fails unless all images hold as many objects.
#
# Expected: the fast recall of proposals is computed for any data, as it is where every image holds the
# same number of objects.
# What happens: mmdet's eval_recalls makes one numpy array of the images' lists of overlaps; numpy has
# refused lists of different lengths since 1.24, so the metric ends with "ValueError: setting an array
# element with a sequence ... inhomogeneous shape", after the whole validation has been computed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install -q "$@"; }
pip torch==2.11.0 torchvision==0.26.0 numpy==2.4.6 setuptools==80.10.2 opencv-python-headless==4.14.0.94
pip mmengine==0.10.7 mmcv-lite==2.1.0 mmdet==3.3.0
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
import numpy  # noqa: E402
import torch  # noqa: E402
from mmdet.evaluation import CocoMetric  # noqa: E402

BOXES = [[10, 10, 20, 20], [40, 40, 20, 20]]  # x, y, width, height


def recall(objects):
    """Of perfect proposals; ``objects`` has the number of objects of each image."""
    images = [dict(id=i, width=80, height=80, file_name=f'{i}.jpg') for i in range(len(objects))]
    boxes = [(image, box) for image, number in enumerate(objects) for box in BOXES[:number]]
    annotations = [
        dict(id=n, image_id=image, category_id=1, bbox=box, area=400, iscrowd=0)
        for n, (image, box) in enumerate(boxes, 1)
    ]
    categories = [dict(id=1, name='thing')]
    with open(sys.argv[1], 'w') as file:
        json.dump(dict(images=images, annotations=annotations, categories=categories), file)
    metric = CocoMetric(ann_file=sys.argv[1], metric='proposal_fast')
    metric.dataset_meta = dict(classes=('thing',))
    for image, number in enumerate(objects):
        found = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in BOXES[:number]]).float()
        scores, labels = torch.ones(number), torch.zeros(number, dtype=torch.long)
        found = dict(bboxes=found, scores=scores, labels=labels)
        metric.process({}, [dict(img_id=image, ori_shape=(80, 80), pred_instances=found)])
    try:
        return f'{metric.evaluate(size=len(objects))["coco/AR@100"]:.2f}'
    except ValueError as error:
        return 'ValueError, inhomogeneous' if 'inhomogeneous' in str(error) else str(error)


print('mmdet', mmdet.__version__, 'numpy', numpy.__version__)
seen = {objects: recall(objects) for objects in ((1, 1), (2, 2), (1, 2))}
for objects, outcome in seen.items():
    print(f'objects of the images {objects}: {outcome}')
assert seen[1, 1] == seen[2, 2] == '1.00' and seen[1, 2] == 'ValueError, inhomogeneous', seen
PYTHON
echo 'As described: the fast recall fails where images hold different numbers of objects.'
