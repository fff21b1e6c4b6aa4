# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Wrong annotations in small data sets of the three toolboxes' own classes."""

import json
import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmdet.datasets.transforms import LoadPanopticAnnotations
from mmengine.config import ConfigDict
from mmengine.dataset import DefaultSampler
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, EVALUATOR, init_default_scope
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.engine import AnnotationsHook
from mmdmformer.engine.errors import UsageError


@pytest.fixture
def log(monkeypatch):
    """What is written into the log."""
    found = []
    logger = MMLogger.get_current_instance()

    def handle(record):
        if record.levelno > logging.DEBUG:
            found.append(record.getMessage())

    monkeypatch.setattr(logger, 'handle', handle)
    return found


class Loop(BaseLoop):
    def __init__(self, dataset, evaluator=None):
        self.dataloader = DataLoader(dataset, sampler=DefaultSampler(dataset))
        self.evaluator = evaluator

    def run(self):
        pass


def check(scope, dataset, evaluator=None, model=None, training=True, **settings):
    """Build a data set and an evaluator, and do what happens before the first step."""
    init_default_scope(scope)
    dataset = DATASETS.build(dataset)
    loop = Loop(dataset, evaluator and EVALUATOR.build(dict(type='Evaluator', metrics=evaluator)))
    if evaluator:
        loop.evaluator.dataset_meta = dataset.metainfo
    runner = SimpleNamespace(model=model or nn.Module(), train_loop=loop)
    setattr(runner, '_train_loop' if training else '_val_loop', loop)
    AnnotationsHook(**settings).before_run(runner)
    return dataset


# Boxes


def voc(folder, *boxes, size=(64, 48), name='cell', difficult=0):
    """A folder in VOC's layout with one image, and the config of mmdet's own class."""
    (folder / 'JPEGImages').mkdir(parents=True)
    (folder / 'Annotations').mkdir()
    (folder / 'list.txt').write_text('x\n')
    cv2.imwrite(str(folder / 'JPEGImages/x.jpg'), np.zeros((48, 64, 3), np.uint8))
    objects = ''.join(
        f'<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>'
        + ''.join(f'<{key}>{value}</{key}>' for key, value in zip(CORNERS, box, strict=True))
        + '</bndbox></object>'
        for box in boxes
    )
    size = f'<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>'
    (folder / 'Annotations/x.xml').write_text(f'<annotation>{size}{objects}</annotation>')
    return dict(
        type='XMLDataset',
        data_root=str(folder),
        ann_file='list.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=('cell', 'nucleus')),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)],
    )


CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
GOOD = (3, 4, 20, 30)
BAD_BOXES = [
    ((9, 9, 9, 20), 'has no area'),
    ((9, 9, 5, 20), 'has swapped corners'),
    ((70, 9, 80, 20), 'lies outside its image'),
]


@pytest.mark.parametrize('box, fault', BAD_BOXES)
def test_faulty_box_of_voc_is_left_out_or_refused(box, fault, tmp_path, log):
    dataset = check('mmdet', voc(tmp_path, GOOD, box))
    corners = [number - 1 for number in box]
    named = (
        f'{tmp_path}/list.txt: 1 of 2 objects take no part: 1 whose box {fault} (object 2 of '
        f'{tmp_path}/Annotations/x.xml, {corners})'
    )
    assert named + '.' in log
    assert [found['bbox'] for found in dataset.get_data_info(0)['instances']] == [[2, 3, 19, 29]]
    assert dataset[0]['gt_bboxes'].tensor.tolist() == [[2, 3, 19, 29]]

    with pytest.raises(BadInputError) as refused:
        check('mmdet', dataset_of(tmp_path), bad_objects='refuse')
    assert str(refused.value).startswith(named + '; correct them, or set bad_objects=')


def dataset_of(folder):
    """The config of a folder that is there."""
    return voc(folder / 'other') | dict(data_root=str(folder))


def test_where_no_object_is_left_the_run_ends(tmp_path):
    with pytest.raises(BadInputError, match='2 of 2 objects .* 2 marked as difficult .* none is'):
        check('mmdet', voc(tmp_path, GOOD, GOOD, difficult=1))


def test_healthy_boxes_are_left_alone(tmp_path, log):
    dataset = check('mmdet', voc(tmp_path, GOOD, (1, 1, 64, 48)), bad_objects='refuse')
    assert len(dataset.get_data_info(0)['instances']) == 2 and not log


def test_image_without_objects_is_allowed(tmp_path):
    assert len(check('mmdet', voc(tmp_path), bad_objects='refuse')) == 1


def test_box_from_zero_is_told_and_read_as_it_is(tmp_path, log):
    settings = voc(tmp_path, (0, 0, 10, 20))
    check('mmdet', settings)
    (said,) = log
    assert '1 of 1 boxes begin at -1' in said and 'first_pixel=0' in said
    log.clear()
    ours = 'mmdmformer.datasets.voc.XMLDataset'
    dataset = check('mmdet', settings | dict(type=ours, first_pixel=0))
    assert dataset.get_data_info(0)['instances'][0]['bbox'] == [0, 0, 10, 20]
    assert not log
    assert check('mmdet', settings | dict(type=ours)).get_data_info(0)['instances'][0]['bbox'] == [
        -1,
        -1,
        9,
        19,
    ]


def test_image_of_no_size_is_told_and_measured(tmp_path, log):
    settings = voc(tmp_path, GOOD, size=(0, 0)) | dict(filter_cfg=dict(min_size=32))
    known = tmp_path / 'Annotations/y.xml'
    known.write_text((tmp_path / 'Annotations/x.xml').read_text().replace('>0</w', '>64</w'))
    known.write_text(known.read_text().replace('>0</h', '>48</h'))
    (tmp_path / 'list.txt').write_text('x\ny\n')
    assert len(check('mmdet', settings)) == 1
    assert log[0].startswith(f'1 of 2 images of {tmp_path}/list.txt are left out by filter_cfg=')
    ours = check('mmdet', settings | dict(type='mmdmformer.datasets.voc.XMLDataset'))
    assert [ours.get_data_info(index)['height'] for index in (0, 1)] == [48, 48]


def test_images_that_indices_leave_out_are_no_fault(tmp_path, log):
    settings = voc(tmp_path, GOOD)
    (tmp_path / 'list.txt').write_text('x\nx\n')
    assert len(check('mmdet', settings | dict(indices=1))) == 1
    assert not log


@pytest.mark.parametrize('text', ['<annotation>', ''])
def test_broken_file_of_voc_is_named(text, tmp_path):
    settings = voc(tmp_path, GOOD) | dict(type='mmdmformer.datasets.voc.XMLDataset')
    (tmp_path / 'Annotations/x.xml').write_text(text)
    with pytest.raises(BadInputError, match=f'annotation {tmp_path}/Annotations/x.xml cannot be'):
        check('mmdet', settings)


def test_number_of_voc_that_is_none_is_named(tmp_path):
    settings = voc(tmp_path, (1, 'nan', 3, 4)) | dict(type='mmdmformer.datasets.voc.XMLDataset')
    with pytest.raises(BadInputError, match='x.xml cannot be read .cannot convert float NaN'):
        check('mmdet', settings)


def coco(folder, content, **settings):
    folder.mkdir(exist_ok=True)
    (folder / 'a.json').write_text(json.dumps(content))
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    return dict(
        type='CocoDataset',
        data_root=str(folder),
        ann_file='a.json',
        data_prefix=dict(img=''),
        metainfo=dict(classes=('cell',)),
        pipeline=[dict(type='LoadImageFromFile'), load],
        **settings,
    )


def content_of(*changes):
    octagon = [8, 4, 12, 4, 16, 8, 16, 12, 12, 16, 8, 16, 4, 12, 4, 8]
    healthy = dict(image_id=1, category_id=1, bbox=[4, 4, 12, 12], area=112, iscrowd=0)
    return dict(
        images=[dict(id=1, file_name='x.jpg', height=48, width=64)],
        categories=[dict(id=1, name='cell')],
        annotations=[
            dict(healthy, id=number, segmentation=[octagon]) | change
            for number, change in enumerate(changes, 1)
        ],
    )


BAD_OBJECTS = [
    (dict(bbox=[9, 9, -3, 4]), 'whose box has swapped corners'),
    (dict(bbox=[0.2, 0.1, 0.3, 0.4]), 'whose box lies within 0 to 1'),
    (dict(area=0), 'whose area is 0'),
    (dict(segmentation=[[1, 2, 3, 4]]), 'without a mask of three points or more'),
    (dict(segmentation=None), 'without a mask of three points or more'),
]


@pytest.mark.parametrize('change, reason', BAD_OBJECTS)
@pytest.mark.parametrize('kind', ['CocoDataset', 'mmdmformer.datasets.coco.CocoDataset'])
def test_what_cocos_data_set_leaves_out_is_told(kind, change, reason, tmp_path, log):
    settings = coco(tmp_path, content_of({}, change)) | dict(type=kind)
    dataset = check('mmdet', settings)
    assert len(dataset.get_data_info(0)['instances']) == 1
    (said,) = set(log)
    assert f'/a.json: 1 of 2 objects take no part: 1 {reason} (annotation 2 of x.jpg, bbox' in said
    with pytest.raises(BadInputError, match='bad_objects="leave_out" in AnnotationsHook'):
        check('mmdet', settings, bad_objects='refuse')
    (tmp_path / 'a.json').write_text(json.dumps(content_of(change, change)))
    with pytest.raises(BadInputError, match=f'2 of 2 .* 2 {reason} .* none is left'):
        check('mmdet', settings)


def test_crowds_alone_are_no_training_set(tmp_path, log):
    """As datumaro writes masks."""
    with pytest.raises(BadInputError, match='2 that iscrowd marks .* set iscrowd to 0'):
        check('mmdet', coco(tmp_path, content_of(dict(iscrowd=1), dict(iscrowd=1))))
    dataset = check('mmdet', coco(tmp_path, content_of({}, dict(iscrowd=1))), bad_objects='refuse')
    assert len(dataset.get_data_info(0)['instances']) == 2  # one of them to be ignored
    assert '1 that iscrowd marks' in log[-1]


def test_label_beyond_the_classes_is_left_out(tmp_path, log):
    """In mmengine's own format, which numbers labels itself."""
    objects = [dict(bbox=[2, 3, 9, 9], bbox_label=label, ignore_flag=0) for label in (0, 1, 2, -1)]
    info = dict(img_path='x.jpg', img_id=1, height=48, width=64, instances=objects)
    content = dict(metainfo=dict(classes=['a', 'b']), data_list=[info])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    settings = dict(type='BaseDetDataset', data_root=str(tmp_path), ann_file='a.json', pipeline=[])
    dataset = check('mmdet', settings)
    assert [i['bbox_label'] for i in dataset.get_data_info(0)['instances']] == [0, 1]
    assert '2 of 4 objects take no part: 2 whose label is no class (object 3 of' in log[0]


def test_panoptic_masks_are_no_masks_of_objects(tmp_path, log):
    info = dict(img_path='x.jpg', height=48, width=64, seg_map_path='x.png', segments_info=[])
    info['instances'] = [dict(bbox=[2, 3, 9, 9], bbox_label=0, ignore_flag=0)]
    content = dict(metainfo=dict(classes=['a']), data_list=[info])
    (tmp_path / 'a.json').write_text(json.dumps(content))
    settings = dict(type='BaseDetDataset', data_root=str(tmp_path), ann_file='a.json')
    step = LoadPanopticAnnotations.__new__(LoadPanopticAnnotations)  # as it wants panopticapi
    step.with_mask = True
    check('mmdet', settings | dict(pipeline=[step]))
    assert not log


def test_objects_cannot_be_left_out_once_workers_read_them(tmp_path):
    settings = voc(tmp_path, GOOD, BAD_BOXES[0][0])
    dataset = check('mmdet', settings, bad_objects='leave_out')
    init_default_scope('mmdet')
    dataset = DATASETS.build(settings)
    loop = Loop(dataset)
    loop.dataloader = DataLoader(dataset, num_workers=2)
    loop.dataloader_iterator = None  # as mmengine's loop over iterations has
    runner = SimpleNamespace(model=nn.Module(), train_loop=loop, _train_loop=loop)
    with pytest.raises(BadInputError, match='object 2 of'):
        AnnotationsHook().before_run(runner)


def test_category_that_a_name_has_twice_is_refused(tmp_path):
    class_less = content_of({}, dict(category_id=2))
    class_less['categories'].append(dict(id=2, name='cell'))  # which mmdet numbers 1
    with pytest.raises(BadInputError, match='a.json has two categories called cell'):
        check('mmdet', coco(tmp_path, class_less))


@pytest.mark.parametrize('objects', [[], [dict(category_id=1)]])
def test_group_with_the_name_of_its_class_is_no_class(objects, tmp_path):
    """As Roboflow writes the categories, also of a split without an object of the class."""
    content = content_of(*objects)
    content['categories'] = [
        dict(id=0, name='cell', supercategory='none'),
        dict(id=1, name='cell', supercategory='cell'),
    ]
    ours = dict(type='mmdmformer.datasets.coco.CocoDataset')
    dataset = check('mmdet', coco(tmp_path, content) | ours)
    assert dataset.cat_ids == [1]
    assert [i['bbox_label'] for i in dataset.get_data_info(0)['instances']] == [0] * len(objects)


# Metrics of detection


def evaluator_of(folder, **settings):
    return [dict(type='CocoMetric', ann_file=f'{folder}/a.json', **settings)]


@pytest.mark.parametrize(
    'change, settings, fault',
    [
        (dict(id=0), {}, 'whose id is 0 or text'),
        (dict(id='a'), {}, 'whose id is 0 or text'),
        ({}, dict(proposal_nums=(1, 10, 500)), 'AP is -1'),
        (dict(segmentation=[[1, 2, 3, 4]]), dict(metric='segm'), 'lack a mask'),
    ],
)
def test_mmdets_metric_is_refused_where_it_is_wrong(change, settings, fault, tmp_path):
    dataset = coco(tmp_path, content_of(change, {}), test_mode=True)
    with pytest.raises(BadInputError) as refused:
        check('mmdet', dataset, evaluator_of(tmp_path, **settings), training=False)
    assert fault in str(refused.value)
    assert "type='mmdmformer.datasets.coco_metric.CocoMetric'" in str(refused.value)
    ours = dict(type='mmdmformer.datasets.coco_metric.CocoMetric')
    check('mmdet', dataset, [evaluator_of(tmp_path, **settings)[0] | ours], training=False)


@pytest.mark.parametrize('missing', ['iscrowd', 'area'])
def test_missing_field_is_told_of_mmdets_metric(missing, tmp_path):
    content = content_of({}, {})
    dataset = coco(tmp_path, content, test_mode=True)
    other = content_of({}, {})
    del other['annotations'][0][missing]
    (tmp_path / 'b.json').write_text(json.dumps(other))
    evaluator = [dict(type='CocoMetric', ann_file=f'{tmp_path}/b.json')]
    with pytest.raises(BadInputError, match='lack iscrowd or area'):
        check('mmdet', dataset, evaluator, training=False)


def test_metric_of_other_images_is_refused(tmp_path):
    dataset = coco(tmp_path, content_of({}), test_mode=True)
    other = content_of({})
    other['images'][0]['id'] = other['annotations'][0]['image_id'] = 7
    coco(tmp_path / 'other', other)
    with pytest.raises(BadInputError, match=r'x.jpg \(id 1\) of .*a.json is not in the ann_file'):
        check('mmdet', dataset, evaluator_of(tmp_path / 'other'), training=False)


@pytest.mark.parametrize('test_cfg', [dict(max_per_img=100), dict(rcnn=dict(max_per_img=100))])
def test_more_objects_than_are_counted_are_told(test_cfg, tmp_path, log):
    dataset = coco(tmp_path, content_of(*[{}] * 120), test_mode=True)
    model = nn.Module()
    model.test_cfg = ConfigDict(test_cfg)
    check('mmdet', dataset, evaluator_of(tmp_path), model, training=False)
    assert any('holds 120 objects, and the model finds 100 in an image' in line for line in log)
    assert any('holds 120 objects of class cell, and AP counts 100' in line for line in log)


# Label images


def maps(folder, *values, num_classes=2, **settings):
    """Label images that hold the values, and the config of mmseg's own class."""
    (folder / 'img').mkdir(parents=True)
    (folder / 'ann').mkdir()
    for number, found in enumerate(values):
        labels = np.resize(np.array(found, np.uint8), (8, 8))
        cv2.imwrite(str(folder / f'ann/{number}.png'), labels)
        cv2.imwrite(str(folder / f'img/{number}.jpg'), np.zeros((8, 8, 3), np.uint8))
    return dict(
        type='BaseSegDataset',
        data_root=str(folder),
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        metainfo=dict(classes=tuple(f'class {i}' for i in range(num_classes))),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    ) | dict(settings)


@pytest.mark.parametrize('values', [[(0, 255), (0,)], [(255,)]])
@pytest.mark.parametrize('reduced', [True, False])
def test_masks_of_zero_and_255_hold_nothing_to_learn(values, reduced, tmp_path):
    settings = maps(tmp_path, *values, reduce_zero_label=reduced)
    with pytest.raises(BadInputError) as refused:
        check('mmseg', settings)
    assert str(refused.value).startswith(f'the {len(values)} label images of {tmp_path}/ann hold')
    assert 'and 255 is not to be learned: number the classes from' in str(refused.value)


def test_class_that_never_occurs_is_told(tmp_path, log):
    check('mmseg', maps(tmp_path, (0, 255), (0, 2), num_classes=4))
    assert log == [
        f'the 2 label images of {tmp_path}/ann never show 2 of the 4 classes: class 1, class 3.'
    ]


@pytest.mark.parametrize('values, reduced', [([(0, 1)], False), ([(0, 1, 2, 255)], True)])
def test_healthy_label_images_are_left_alone(values, reduced, tmp_path, log):
    check('mmseg', maps(tmp_path, *values, reduce_zero_label=reduced))
    assert not log


def test_value_of_no_class_is_named_before_the_first_step(tmp_path, log):
    settings = maps(tmp_path, (0, 1), (0, 1), (0, 7, 1))
    with pytest.raises(BadInputError, match=f'annotation {tmp_path}/ann/2.png has the value 7 in'):
        check('mmseg', settings)
    log.clear()
    check('mmseg', settings, label_images=1)  # the first
    check('mmseg', maps(tmp_path / 'few', (0,), (0, 1)), label_images=1)
    assert log == [
        f'1 of the 2 label images of {tmp_path}/few/ann never show 1 of the 2 classes: class 1.'
    ]


def segmentor(head=255, auxiliary=255, padding=255):
    model = nn.Module()
    model.data_preprocessor = SimpleNamespace(seg_pad_val=padding)
    model.decode_head, model.auxiliary_head = nn.Module(), nn.ModuleList([nn.Module()])
    model.decode_head.ignore_index, model.auxiliary_head[0].ignore_index = head, auxiliary
    return model


AGREE = dict(head=11, auxiliary=11, padding=11, dataset=11, metric=11)


@pytest.mark.parametrize('other', [None, *AGREE])
def test_what_is_not_learned_must_be_one_label(other, tmp_path):
    labels = AGREE | ({other: 255} if other else {})
    metric = [dict(type='IoUMetric', ignore_index=labels.pop('metric'))]
    settings = maps(tmp_path, (0, 10, 11), num_classes=11, ignore_index=labels.pop('dataset'))
    if other is None:
        assert check('mmseg', settings, metric, segmentor(**labels), training=False)
        return
    with pytest.raises(BadInputError, match='the settings disagree .*=255.*: give all one value'):
        check('mmseg', settings, metric, segmentor(**labels), training=False)


def test_label_zero_becomes_255_whatever_is_ignored(tmp_path):
    settings = maps(tmp_path, (0, 1, 2), ignore_index=254, reduce_zero_label=True)
    with pytest.raises(BadInputError, match='reduce_zero_label makes 255 of label 0.*: set 255'):
        check('mmseg', settings, model=segmentor(254, 254, 254))


@pytest.mark.parametrize('step', [True, False])
def test_label_zero_is_reduced_in_both_places_or_none(step, tmp_path):
    settings = maps(tmp_path, (1, 2), reduce_zero_label=not step)
    settings['pipeline'][1] = dict(type='LoadAnnotations', reduce_zero_label=step)
    with pytest.raises(BadInputError, match=f'reduce_zero_label is {step} in LoadAnnotations of'):
        check('mmseg', settings)


# Folders and lists of classes


def folders(folder, *names, suffix='.png', **settings):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / f'x{suffix}').touch()
        (folder / name / 'y.png').touch()
    return dict(type='CustomDataset', data_root=str(folder), pipeline=[]) | settings


OURS = dict(type='mmdmformer.datasets.imagenet.ImageNet')


@pytest.mark.parametrize('kind', [{}, OURS])
def test_folders_in_another_order_than_classes_are_refused(kind, tmp_path):
    settings = folders(tmp_path, '2', '10', **kind)
    with pytest.raises(BadInputError, match='have 2 in place 0, and the folders of .* have 10: '):
        check('mmpretrain', settings | dict(metainfo=dict(classes=('2', '10'))))
    for classes in (('10', '2'), ('ten', 'two')):
        assert check('mmpretrain', settings | dict(metainfo=dict(classes=classes)))


@pytest.mark.parametrize('suffix', ['.webp', '.tiff', '.TIFF'])
def test_image_files_that_are_left_out_are_told(suffix, tmp_path, log):
    settings = folders(tmp_path, 'a', 'b', suffix=suffix)
    assert len(check('mmpretrain', settings)) == 2
    assert f'{tmp_path}: 2 {suffix.lower()} files are left out' in log[-1]
    log.clear()
    ours = settings | OURS | dict(metainfo=dict(classes=('a', 'b')))
    assert len(check('mmpretrain', ours)) == 4 and not log


@pytest.mark.parametrize('label', [-1, 2])
def test_label_of_a_list_that_is_no_class_is_named(label, tmp_path):
    (tmp_path / 'list.txt').write_text(f'a.png 0\nb.png {label}\n')
    settings = dict(type='CustomDataset', data_root=str(tmp_path), ann_file='list.txt')
    with pytest.raises(BadInputError, match=f'list.txt: .*b.png has the label {label}, and the'):
        check('mmpretrain', settings | dict(metainfo=dict(classes=('a', 'b')), pipeline=[]))


@pytest.mark.parametrize('kind', [{}, dict(type='mmdmformer.datasets.coco.CocoDataset')])
@pytest.mark.parametrize('toolbox', ['mmdet', 'mmseg', 'mmpretrain'])
def test_text_in_place_of_class_names_is_refused(toolbox, kind, tmp_path):
    """``classes=('cell')``, whose letters would be the classes."""
    if kind and toolbox != 'mmdet':
        pytest.skip('a data set of mmdet')
    settings = {
        'mmdet': lambda: coco(tmp_path, content_of({})) | kind,
        'mmseg': lambda: maps(tmp_path, (0, 1)),
        'mmpretrain': lambda: folders(tmp_path, 'cell', **OURS),
    }[toolbox]()
    with pytest.raises(BadInputError, match=r"is the text 'cell' .* write \('cell',\)"):
        check(toolbox, settings | dict(metainfo=dict(classes='cell')))


def test_accuracy_of_more_classes_than_there_are_is_refused(tmp_path):
    settings = folders(tmp_path, 'a', 'b', 'c')
    with pytest.raises(BadInputError, match=r'best 5 .* data set has 3: set topk=\(1, 3\) in'):
        check('mmpretrain', settings, [dict(type='Accuracy', topk=(1, 3, 5))], training=False)
    check('mmpretrain', settings, [dict(type='Accuracy', topk=(1, 3))], training=False)


def test_setting_must_be_one_of_two():
    with pytest.raises(UsageError, match="must be 'leave_out' or 'refuse', not 'skip'"):
        AnnotationsHook('skip')
