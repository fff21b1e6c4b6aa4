# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The built-in data in other forms: Pascal VOC, folders as of Cityscapes, several labels an image.

No config of the project reads them so.
"""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

from made_up_sets import OBJECT

# Of each form: the mini run that it is for, and what its config says instead.
CONFIGS = {
    'voc': (
        'detection',
        """
classes = tuple(f'digit_{{i}}' for i in range(10))
dataset = dict(
    _delete_=True, type='XMLDataset', data_root={root!r}, metainfo=dict(classes=classes),
    img_subdir='images', ann_subdir='boxes', data_prefix=dict(sub_data_root='')
)
train_dataloader = dict(
    dataset=dict(**dataset, ann_file='train2017.txt', pipeline=_base_.train_pipeline)
)
val_dataloader = dict(
    dataset=dict(
        **dataset, ann_file='val2017.txt', test_mode=True,
        pipeline=[*_base_.test_pipeline[:2], dict(type='LoadAnnotations', with_bbox=True),
                  _base_.test_pipeline[-1]],
    )
)
val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP')
""",
    ),
    'cityscapes': (
        'segmentation',
        """
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(reduce_zero_label=None)  # the data set says it
test_pipeline = _base_.test_pipeline
test_pipeline[3].update(reduce_zero_label=None)
dataset = dict(
    _delete_=True, type='CityscapesDataset', data_root={root!r}, img_suffix='_leftImg8bit.jpg',
    seg_map_suffix='_gtFine_labelTrainIds.png'
)
train_dataloader = dict(
    dataset=dict(
        **dataset, pipeline=train_pipeline,
        data_prefix=dict(img_path='leftImg8bit/training', seg_map_path='gtFine/training'),
    )
)
val_dataloader = dict(
    dataset=dict(
        **dataset, pipeline=test_pipeline,
        data_prefix=dict(img_path='leftImg8bit/validation', seg_map_path='gtFine/validation'),
    )
)
model = dict(decode_head=dict(num_classes=19))
""",
    ),
    'multilabel': (
        'classification',
        """
dataset = dict(_delete_=True, type='MultiLabelDataset', data_root={root!r})
train_dataloader = dict(
    dataset=dict(**dataset, ann_file='train.json', pipeline=_base_.train_pipeline)
)
val_dataloader = dict(
    dataset=dict(**dataset, ann_file='val.json', pipeline=_base_.test_pipeline)
)
val_evaluator = [
    dict(type='MultiLabelMetric', thr=0.5), dict(type='AveragePrecision'),
]
model = dict(
    train_cfg=None,
    data_preprocessor=dict(to_onehot=True),
    head=dict(
        _delete_=True, type='MultiLabelLinearClsHead', num_classes=10, in_channels=128,
        loss=dict(type='CrossEntropyLoss', use_sigmoid=True),
    ),
)
""",
    ),
}


def write_voc(data: Path, root: Path) -> None:
    """``images``, ``boxes`` and a list for each split."""
    for split in ('train2017', 'val2017'):
        found = json.loads((data / f'coco/annotations/instances_{split}.json').read_text())
        shutil.copytree(data / 'coco' / split, root / 'images', dirs_exist_ok=True)
        (root / 'boxes').mkdir(exist_ok=True)
        names = {each['id']: each['name'] for each in found['categories']}
        for image in found['images']:
            text = ''
            for each in found['annotations']:
                x, y, w, h = map(round, each['bbox'])
                if each['image_id'] == image['id']:
                    box = x + 1, y + 1, x + w, y + h
                    text += OBJECT.format(name=names[each['category_id']], difficult=0, box=box)
            size = f'<width>{image["width"]}</width><height>{image["height"]}</height>'
            file = root / f'boxes/{Path(image["file_name"]).stem}.xml'
            file.write_text(f'<annotation><size>{size}<depth>3</depth></size>{text}</annotation>')
        stems = [Path(image['file_name']).stem for image in found['images']]
        (root / f'{split}.txt').write_text('\n'.join(stems))


def write_cityscapes(data: Path, root: Path) -> None:
    """``{leftImg8bit,gtFine}/SPLIT/CITY``; label 255 is none, where ADE20K has 0."""
    source = data / 'ade/ADEChallengeData2016'
    for split in ('training', 'validation'):
        for number, path in enumerate(sorted((source / f'images/{split}').iterdir())):
            city = f'{split}/city{number % 2}'
            for kind in ('leftImg8bit', 'gtFine'):
                (root / kind / city).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / f'leftImg8bit/{city}/{path.stem}_leftImg8bit.jpg')
            labels = cv2.imread(str(source / f'annotations/{split}/{path.stem}.png'), 0) - 1
            name = root / f'gtFine/{city}/{path.stem}_gtFine_labelTrainIds.png'
            cv2.imwrite(str(name), labels.astype(np.uint8))


def write_multilabel(data: Path, root: Path) -> None:
    """A list for each split: of each image the digit, and whether it is even or odd."""
    root.mkdir(parents=True)
    for split in ('train', 'val'):
        images = sorted((data / f'imagenet/{split}').glob('*/*'))
        items = []
        for image in images:
            digit = int(image.parent.name[-1])
            items.append(dict(img_path=str(image), gt_label=sorted({digit, digit % 2})))
        classes = [f'digit_{i}' for i in range(10)]
        content = dict(metainfo=dict(classes=classes), data_list=items)
        (root / f'{split}.json').write_text(json.dumps(content))


WRITERS = dict(voc=write_voc, cityscapes=write_cityscapes, multilabel=write_multilabel)
