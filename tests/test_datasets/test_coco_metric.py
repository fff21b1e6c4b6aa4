# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""COCO's numbers beside mmdet's own, and where mmdet's are wrong beside what they must be."""

import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.logging import MMLogger

from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.datasets.coco_metric import CocoMetric

SIDE = 128


def truth(objects_an_image=12, images=3, seed=0):
    """A file of boxes with octagons in them, of three classes sorted by their ids."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(images):
        for _ in range(objects_an_image):
            (x, y), (w, h) = rng.uniform(0, 90, 2), rng.uniform(6, 36, 2)
            turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
            points = np.stack([x + w / 2 * (1 + np.cos(turn)), y + h / 2 * (1 + np.sin(turn))], 1)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image,
                    category_id=int(rng.integers(1, 4)),
                    bbox=[x, y, w, h],
                    segmentation=[points.ravel().tolist()],
                    area=w * h * 0.7,
                    iscrowd=0,
                )
            )
    return dict(
        images=[dict(id=i, file_name=f'{i}.jpg', height=SIDE, width=SIDE) for i in range(images)],
        categories=[dict(id=i, name='abc'[i - 1]) for i in (1, 2, 3)],
        annotations=annotations,
    )


def predictions(content, noise=0.0, left_out=0.0):
    """What a detector says that finds the objects up to ``noise`` pixels, and misses some."""
    from pycocotools import mask as mask_tools

    rng = np.random.default_rng(1)
    order = [category['id'] for category in content['categories']]
    samples = []
    for image in content['images']:
        found = [a for a in content['annotations'] if a['image_id'] == image['id']]
        found = [a for a in found if rng.random() >= left_out]
        boxes = np.array([a['bbox'] for a in found]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = [
            mask_tools.merge(
                mask_tools.frPyObjects(
                    [(np.array(p) + rng.normal(0, noise)).tolist() for p in a['segmentation']],
                    SIDE,
                    SIDE,
                )
            )
            for a in found
            if a.get('segmentation')
        ]
        instances = dict(
            bboxes=torch.tensor(boxes + rng.normal(0, noise, boxes.shape)),
            scores=torch.tensor(rng.random(len(found))),
            labels=torch.tensor([order.index(a['category_id']) for a in found], dtype=int),
        )
        if len(masks) == len(found):
            instances['masks'] = masks
        samples.append(dict(img_id=image['id'], ori_shape=(SIDE, SIDE), pred_instances=instances))
    return samples


@pytest.fixture
def evaluate(tmp_path):
    def run(metric_class, content, samples, classes=None, **settings):
        path = tmp_path / 'truth.json'
        path.write_text(json.dumps(content))
        metric = metric_class(ann_file=str(path), **settings)
        names = classes or [category['name'] for category in content['categories']]
        metric.dataset_meta = dict(classes=tuple(names))
        metric.process({}, samples)
        return {key.removeprefix('coco/'): v for key, v in metric.evaluate(len(samples)).items()}

    return run


@pytest.fixture
def warnings(monkeypatch):
    """What is written into the log as a warning."""
    found = []
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'handle', lambda record: found.append(record.getMessage()))
    return found


@pytest.mark.parametrize('metric', ['bbox', 'segm', 'proposal'])
def test_numbers_are_those_of_mmdet(metric, evaluate):
    content = truth()
    content['annotations'][3]['iscrowd'] = 1
    samples = predictions(content, noise=2, left_out=0.2)
    settings = dict(metric=metric, classwise=True)
    ours = evaluate(CocoMetric, content, samples, **settings, proposal_nums=(100, 300, 1000))
    assert ours == evaluate(MMDetCocoMetric, content, samples, **settings)
    assert len(ours) == (6 if metric == 'proposal' else 9) and 0.2 < max(ours.values()) < 0.9
    standard = evaluate(CocoMetric, content, samples, **settings)
    assert all(standard[key] == ours[key] for key in standard if '@' not in key or key in ours)


def ids_from_zero(content):
    for number, annotation in enumerate(content['annotations']):
        annotation['id'] = number


def text_ids(content):
    for annotation in content['annotations']:
        annotation['id'] = f'object {annotation["id"]}'


def without_iscrowd(content):
    del content['annotations'][2]['iscrowd']


def without_area(content):
    for annotation in content['annotations']:
        del annotation['area']


def sides_with_a_point(content):
    content['images'][0].update(height=128.0, width=128.0)


def group_of_the_same_name(content):
    """As Roboflow writes a project's classes."""
    content['categories'].insert(0, dict(id=0, name='a', supercategory='none'))
    content['categories'][1]['supercategory'] = 'a'


def categories_unsorted(content):
    content['categories'].reverse()


@pytest.mark.parametrize('metric', ['bbox', 'segm'])
@pytest.mark.parametrize(
    'change',
    [
        ids_from_zero,
        text_ids,
        without_iscrowd,
        without_area,
        sides_with_a_point,
        group_of_the_same_name,
        categories_unsorted,
    ],
)
def test_form_of_the_file_changes_no_number(change, metric, evaluate):
    content = truth()
    samples = predictions(content, noise=2, left_out=0.2)
    expected = evaluate(MMDetCocoMetric, content, samples, metric=metric, classwise=True)
    change(content)
    classes = ['c', 'b', 'a'] if change is categories_unsorted else ['a', 'b', 'c']
    if change is categories_unsorted:
        for sample in samples:
            labels = sample['pred_instances']['labels']
            sample['pred_instances']['labels'] = 2 - labels
    found = evaluate(CocoMetric, content, samples, classes, metric=metric, classwise=True)
    if change is without_area:  # that of the octagon, 0.7071 of its box's
        assert {k: v for k, v in found.items() if k[-2:] not in ('_s', '_m')} == {
            k: v for k, v in expected.items() if k[-2:] not in ('_s', '_m')
        }
    else:
        assert found == expected


@pytest.mark.parametrize('change', [ids_from_zero, text_ids, without_iscrowd, without_area])
def test_perfect_detector_scores_one(change, evaluate):
    content = truth()
    change(content)
    found = evaluate(CocoMetric, content, predictions(content), metric=['bbox', 'segm'])
    assert found['bbox_mAP'] == found['segm_mAP'] == 1.0


def test_area_that_is_missing_is_the_masks_or_the_boxes(evaluate):
    content = truth()
    samples = predictions(content, noise=2)
    for annotation in content['annotations'][::2]:
        del annotation['segmentation']
    for annotation in content['annotations']:
        x, y = np.array(annotation.get('segmentation', np.zeros(16))).reshape(8, 2).T
        shoelace = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
        annotation['area'] = shoelace or annotation['bbox'][2] * annotation['bbox'][3]
        assert abs(annotation['area'] - 1024) > 30  # which is where large objects begin
    expected = evaluate(MMDetCocoMetric, content, samples)
    without_area(content)
    assert evaluate(CocoMetric, content, samples) == expected


@pytest.mark.parametrize('limits', [(1, 10, 100), (1, 10, 500), (500, 10), (200,)])
def test_numbers_are_at_the_limit(limits, evaluate, warnings):
    """Of 300 perfect boxes, COCO's 101 recall levels up to limit / 300 are reached."""
    content = truth(objects_an_image=300, images=1)
    for place, annotation in enumerate(content['annotations']):
        annotation.update(category_id=1, bbox=[place % 20 * 6, place // 20 * 6, 5, 5], area=25)
    samples = predictions(content)
    recall = min(1, max(limits) / 300)
    reached = sum(level <= recall + 1e-9 for level in np.arange(101) / 100) / 101
    settings = dict(proposal_nums=limits, iou_thrs=[0.5, 0.75])
    found = evaluate(CocoMetric, content, samples, **settings)
    for name in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s'):
        assert found[f'bbox_{name}'] == round(reached, 3)
    assert found['bbox_mAP_l'] == -1
    proposals = evaluate(CocoMetric, content, samples, metric='proposal', **settings)
    for limit in limits:
        assert proposals[f'AR@{limit}'] == round(min(1, limit / 300), 3)
    said = [line for line in warnings if '0.jpg holds 300 objects of class a, and AP' in line]
    assert len(said) == (2 if max(limits) < 300 else 0)
    assert all('proposal_nums=(1, 10, 300)' in line for line in said)
    assert any(f'bbox at {max(limits)} detections an image' in line for line in warnings)


def test_without_detections_every_number_is_zero(evaluate):
    content = truth()
    found = evaluate(CocoMetric, content, predictions(content, left_out=1))
    assert found['bbox_mAP'] == found['bbox_mAP_50'] == 0


@pytest.mark.parametrize('mask', [None, [], [[]], [[1, 2, 30, 40]]])
def test_object_without_a_mask_is_named_and_left_out(mask, evaluate, warnings):
    """mmdet's metric ends in a traceback, or takes two points for a box."""
    content = truth()
    samples = predictions(content)
    content['annotations'][4]['segmentation'] = mask
    if mask is None:
        del content['annotations'][4]['segmentation']
    settings = dict(metric='segm', proposal_nums=(1, 10, 101))
    found = evaluate(CocoMetric, content, samples, **settings)
    (said,) = (line for line in warnings if 'take no part' in line)
    assert (
        '1 of 36 objects' in said
        and 'a mask of three points or more (annotation 5 of 0.jpg, ' in said
    )
    del content['annotations'][4]
    assert found == evaluate(MMDetCocoMetric, content, samples, metric='segm')


@pytest.mark.parametrize(
    'changes, fault',
    [
        (dict(iscrowd=1), '36 that iscrowd marks (annotation 1 of 0.jpg, bbox ['),
        (dict(segmentation=[[]]), '36 without a mask of three points or more (annotation 1 of'),
        (dict(bbox=[0.1, 0.2, 0.3, 0.4]), '36 whose box lies within 0 to 1 (annotation 1 of 0.jpg'),
        (dict(bbox=[9, 9, 0, 4]), '36 whose box has no area (annotation 1 of 0.jpg, bbox [9, 9, 0'),
    ],
)
def test_nothing_to_find_is_refused(changes, fault, evaluate):
    content = truth()
    for annotation in content['annotations']:
        annotation.update(changes)
    with pytest.raises(BadInputError) as refused:
        evaluate(CocoMetric, content, [], metric='segm')
    assert f'36 of 36 objects take no part: {fault}' in str(refused.value)
    assert '; none is left: ' in str(refused.value) and '\n' not in str(refused.value)


@pytest.mark.parametrize(
    'settings, sentence',
    [
        (dict(metric='proposal_fast'), "take 'proposal'"),
        (dict(metric_items=['AR@1000']), 'holds AR@1000, and with proposal_nums='),
    ],
)
def test_unknown_number_is_told_at_once(settings, sentence, evaluate):
    with pytest.raises(ValueError, match=sentence):
        evaluate(CocoMetric, truth(), [], **settings)
