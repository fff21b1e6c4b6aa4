# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Converters of annotations: their numbers are those that the toolboxes read, or those drawn."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from made_up_sets import CIFAR10, NUCLEI, write_cifar10, write_nuclei, write_voc
from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.datasets.to_coco import masks_to_coco, split_folders, voc_to_coco

TOOLS = Path(__file__).parents[2] / 'tools/dataset_converters'
CLASSES = ('RBC', 'WBC')
OBJECTS = [
    ('WBC', (260, 177, 491, 376), False),
    ('RBC', (1, 1, 640, 480), True),
    ('Platelets', (5, 6, 7, 8), False),
    ('RBC', ('10.9', '20', '30', '40.2'), False),
]


@pytest.mark.parametrize('first_pixel', [0, 1])
def test_voc_boxes_are_those_of_mmdet(first_pixel, tmp_path):
    pytest.importorskip('mmdet')
    from mmdmformer.datasets.coco import CocoDataset
    from mmdmformer.datasets.voc import XMLDataset

    write_voc(tmp_path, OBJECTS)
    xml = XMLDataset(
        first_pixel=first_pixel,
        data_root=str(tmp_path),
        ann_file='ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=CLASSES),
        test_mode=True,
    )
    content = voc_to_coco(tmp_path, 'train', CLASSES, first_pixel)
    (tmp_path / 'train.json').write_text(json.dumps(content))
    coco = CocoDataset(
        ann_file='train.json',
        data_root=str(tmp_path),
        data_prefix=dict(img='JPEGImages/'),
        metainfo=dict(classes=CLASSES),
        test_mode=True,
    )
    assert len(xml) == len(coco) == 2
    for theirs, ours in zip(xml, coco, strict=True):
        assert Path(ours['img_path']) == Path(theirs['img_path'])
        assert (ours['height'], ours['width']) == (theirs['height'], theirs['width'])
        fields = ('bbox', 'bbox_label', 'ignore_flag')
        expected = [tuple(o[f] for f in fields) for o in theirs['instances']]
        assert [tuple(o[f] for f in fields) for o in ours['instances']] == expected
    corners = [corner - first_pixel for corner in (260, 177, 491, 376)]
    assert expected[0] == (corners, 1, 0)
    assert len(expected) == 3


@pytest.mark.parametrize(
    'old, new',
    [
        ('<xmin>260</xmin>', ''),
        ('>260<', '>left<'),
        ('<width>640</width>', ''),
        ('</size>', ''),
        ('<name>RBC</name>', ''),
    ],
)
def test_voc_names_a_file_without_what_is_needed(old, new, tmp_path):
    write_voc(tmp_path, OBJECTS)
    path = tmp_path / 'Annotations/BloodImage_01.xml'
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(BadInputError, match='BloodImage_01.xml has no image size, or an object'):
        voc_to_coco(tmp_path, 'train', CLASSES)
    with pytest.raises(BadInputError, match='Main/all.txt cannot be read'):
        voc_to_coco(tmp_path, 'all', CLASSES)


@pytest.fixture
def masks():
    """Three nuclei, one of two parts and one of a single pixel."""
    drawn = np.zeros((3, 40, 50), bool)
    drawn[0, 3:9, 4:20] = drawn[0, 20:22, 30:31] = True
    drawn[1, 39, 49] = True
    drawn[2, 10:30, :] = True
    return drawn


def test_masks_are_those_of_the_images(masks, tmp_path):
    decode = pytest.importorskip('pycocotools.mask').decode
    write_nuclei(tmp_path, [*masks, np.zeros_like(masks[0])])
    content = masks_to_coco(tmp_path, [NUCLEI['val'], NUCLEI['train']], 'nucleus')
    assert content['categories'] == [dict(id=1, name='nucleus')]
    assert content['images'] == [
        dict(id=1, file_name='a0/images/a0.png', height=40, width=50),
        dict(id=2, file_name='a2/images/a2.png', height=40, width=50),
    ]
    annotations = content['annotations']
    assert [a['id'] for a in annotations] == [1, 2, 3, 4, 5, 6]
    assert [a['image_id'] for a in annotations] == [1, 1, 1, 2, 2, 2]
    assert [a['area'] for a in annotations] == [98, 1, 1000] * 2
    assert [a['bbox'] for a in annotations[:3]] == [[4, 3, 27, 19], [49, 39, 1, 1], [0, 10, 50, 20]]
    for annotation, mask in zip(annotations, [*masks, *masks], strict=True):
        np.testing.assert_array_equal(decode(annotation['segmentation']), mask)
    json.dumps(content)


def test_masks_of_another_size_or_damaged_are_named(masks, tmp_path):
    pytest.importorskip('pycocotools')
    write_nuclei(tmp_path, masks)
    path = tmp_path / 'a0/masks/1.png'
    cv2.imwrite(str(path), np.zeros((50, 40), np.uint8))
    with pytest.raises(BadInputError, match='1.png has 40 x 50 pixels and its image 50 x 40'):
        masks_to_coco(tmp_path, ['a0'], 'nucleus')
    path.write_text('no image')
    with pytest.raises(BadInputError, match='1.png is missing or no image'):
        masks_to_coco(tmp_path, ['a0'], 'nucleus')


def test_folders_are_split_by_name_in_each_class(tmp_path):
    write_cifar10(tmp_path, each=7)
    (tmp_path / 'train/cat/notes.txt').write_text('no image')
    lines = split_folders(tmp_path / 'train', every=3)
    assert len(lines['train']) == 50 and len(lines['val']) == 20
    assert lines['val'][:3] == [
        'airplane/0002.jpg 0',
        'airplane/0005.jpg 0',
        'automobile/0002.jpg 1',
    ]
    assert lines['train'][-1] == 'truck/0006.jpg 9'
    with pytest.raises(BadInputError, match='has no folder with images'):
        split_folders(tmp_path / 'train/cat')


def test_tools_write_the_files_that_configs_name(masks, python, tmp_path):
    write_cifar10(tmp_path / 'cifar10')
    write_voc(tmp_path / 'bccd', OBJECTS)
    write_nuclei(tmp_path / 'nuclei/stage1_train', masks)
    for tool, *args in (
        ('split_folders', 'cifar10/train'),
        ('voc', 'bccd', '--classes', *CLASSES),
        ('instance_masks', 'nuclei/stage1_train'),
    ):
        run = python(TOOLS / f'{tool}.py', *args, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[1] == 'nuclei/annotations/val.json: 1 images, 3 objects'
    label = f'{CIFAR10[1]}/0009.jpg 1'
    assert (tmp_path / 'cifar10/val.txt').read_text().splitlines()[1] == label
    content = json.loads((tmp_path / 'bccd/coco/test.json').read_text())
    assert content == voc_to_coco(tmp_path / 'bccd', 'test', CLASSES)
    tool = [TOOLS / 'voc.py', 'bccd', '--classes', 'RBC', '--splits']
    assert 'begin at -1' not in python(*tool, 'test', cwd=tmp_path).stdout
    for path in (tmp_path / 'bccd/Annotations').iterdir():
        path.write_text(path.read_text().replace('<xmin>1<', '<xmin>0<'))
    said = python(*tool, 'test', cwd=tmp_path).stdout.splitlines()[-1]
    assert said == (
        'bccd/coco/test.json: 2 boxes begin at -1, as their files count pixels from 0: convert '
        'them with --first-pixel 0.'
    )
    said = python(*tool, 'test', '--first-pixel', '0', cwd=tmp_path).stdout.splitlines()[-1]
    assert said == 'bccd/coco/test.json: 2 images, 4 boxes'
    run = python(*tool, 'all', cwd=tmp_path)
    assert run.returncode == 1 and len(run.stderr.splitlines()) == 1
