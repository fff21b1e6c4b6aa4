# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Damaged annotations of the three tasks; benchmarks/reliability.py injects a thousand."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faults import damage
from faults.inputs import (
    build,
    damaged_classes,
    damaged_instances,
    damaged_maps,
)
from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.datasets.instances import check_instances


@pytest.mark.slow
@pytest.mark.parametrize(
    'inject, times', [(damaged_instances, 60), (damaged_maps, 60), (damaged_classes, 12)]
)
def test_damage_is_named_or_labels_are_right(inject, times, tmp_path):
    outcome = inject(times, tmp_path, seed=0)
    assert outcome.failures == []
    assert outcome.counts.total() == times
    assert len(outcome.counts) == 2 and min(outcome.counts.values()) > 2


# COCO


def instances(**changes):
    annotation = dict(id=5, image_id=1, category_id=2, bbox=[0, 0, 2, 2], area=4, iscrowd=0)
    return dict(
        images=[dict(id=1, file_name='x.jpg', height=2, width=3)],
        categories=[dict(id=2, name='thing')],
        annotations=[annotation | changes],
    )


RUNS = 'has a mask whose run lengths do not fill its image of 2 x 3 pixels'


@pytest.mark.parametrize(
    'changes, fault',
    [
        (dict(segmentation=dict(size=[2, 3], counts=[1, 4])), RUNS),  # one pixel is not told
        (dict(segmentation=dict(size=[2, 3], counts=[1, 6])), RUNS),
        (dict(segmentation=dict(size=[2, 3], counts=[7, -1])), RUNS),
        (dict(segmentation=dict(size=[3, 2], counts=[6])), RUNS),
        (dict(segmentation=dict(size=[2, 3], counts='16')), RUNS),
        (dict(segmentation=dict(size=[2, 3], counts='P')), RUNS),  # ends within a number
        (dict(segmentation=dict(size=[2, 3])), RUNS),
        (dict(segmentation='x'), RUNS),
        (dict(segmentation=[[1, 2, 3]]), 'has the polygon [1, 2, 3] instead of pairs of numbers'),
        (dict(segmentation=[1, 2]), 'has the polygon 1 instead of pairs of numbers'),
        (
            dict(segmentation=[[0, 0, 1, float('nan'), 2, 2]]),
            'has the polygon [0, 0, 1, nan, 2, 2] instead of pairs of numbers',
        ),
        (dict(area='4'), "has the area '4' instead of a number"),
        (dict(iscrowd='0'), "has the iscrowd '0' instead of 0 or 1"),
        (dict(bbox=[0, 0, 10**400, 1]), f'has the bbox [0, 0, 1{"0" * 69}... instead of four'),
        (dict(bbox='x'), "has the bbox 'x' instead of four numbers"),
    ],
)
def test_fault_of_an_instance_is_named(changes, fault):
    with pytest.raises(BadInputError) as refused:
        check_instances(instances(**changes), 'a.json')
    assert str(refused.value).startswith(f'a.json: annotation 5 {fault}')


@pytest.mark.parametrize(
    'section, changes, fault',
    [
        ('images', dict(height=0), 'entry 0 of images (id 1) has the height 0'),
        ('images', dict(width='3'), "entry 0 of images (id 1) has the width '3'"),
        ('images', dict(file_name=None), 'entry 0 of images (id 1) has the file_name None'),
        ('categories', dict(id=[2]), 'entry 0 of categories (id [2]) has the id [2]'),
        ('annotations', dict(image_id=None), 'entry 0 of annotations (id 5) has the image_id None'),
    ],
)
def test_fault_of_a_field_is_named(section, changes, fault):
    content = instances()
    content[section][0].update(changes)
    with pytest.raises(BadInputError) as refused:
        check_instances(content, 'a.json')
    assert str(refused.value) == f'a.json: {fault}: correct or restore the file.'


@pytest.mark.parametrize('section', ['images', 'categories', 'annotations'])
@pytest.mark.parametrize('entry', [None, 'x', [], 3])
def test_entry_that_is_no_object_is_named(section, entry):
    content = instances()
    content[section].append(entry)
    with pytest.raises(BadInputError, match=f'entry 1 of {section} .* instead of an object'):
        check_instances(content, 'a.json')


@pytest.mark.parametrize('mask', [None, [], [[0, 0, 2, 0, 2, 2]], dict(size=[2, 3], counts='15')])
def test_masks_that_coco_has_are_accepted(mask):
    assert check_instances(instances(segmentation=mask), 'a.json') is None


@pytest.mark.parametrize('split', ['train', 'val'])
def test_file_without_images_is_named(split, mini_data, tmp_path):
    path = tmp_path / f'coco/annotations/instances_{split}2017.json'
    path.parent.mkdir(parents=True)
    content = json.loads((mini_data / path.relative_to(tmp_path)).read_text())
    path.write_text(json.dumps(dict(content, images=[], annotations=[])))
    with pytest.raises(BadInputError, match=f'^{path} has no image that can be used'):
        build('detection', tmp_path, split)


# Label maps and classes


@pytest.fixture
def label_map(mini_data, tmp_path):
    """A copy of the built-in data, and one of its label maps."""
    shutil.copytree(mini_data, tmp_path, dirs_exist_ok=True)
    dataset = build('segmentation', tmp_path)
    return dataset, Path(dataset.get_data_info(0)['seg_map_path'])


def test_bits_that_pillow_does_not_look_at_are_noticed(label_map):
    """Some flipped bits of a PNG file change labels without an error of its decoder."""
    dataset, path = label_map
    content, unnoticed = path.read_bytes(), 0
    expected = np.asarray(Image.open(path))
    for place in range(33, len(content) - 12):
        changed = bytearray(content)
        changed[place] ^= 1
        try:
            read = np.asarray(Image.open(io.BytesIO(changed)))
        except Exception:
            continue
        if read.shape != expected.shape or np.array_equal(read, expected):
            continue
        unnoticed += 1
        path.write_bytes(changed)
        with pytest.raises(BadInputError, match=f'annotation {path} '):
            dataset[0]
    assert unnoticed > 5


def test_label_of_more_than_eight_bits_is_named(label_map):
    """mmseg keeps the lower eight, which may be a class."""
    dataset, path = label_map
    labels = np.asarray(Image.open(path)).astype(np.uint16)
    labels[3, 4] = 257
    path.write_bytes(damage.encode(Image.fromarray(labels), 'PNG'))
    with pytest.raises(BadInputError) as refused:
        dataset[0]
    assert str(refused.value) == (
        f'annotation {path} has the value 257 in row 3, column 4, and labels 8 bits: correct or '
        'restore the file.'
    )


def test_renamed_class_folder_is_named(mini_data, tmp_path):
    """mmpretrain would give six of ten classes the label of another."""
    shutil.copytree(mini_data, tmp_path, dirs_exist_ok=True)
    val = tmp_path / 'imagenet/val'
    (val / 'digit_3').rename(val / 'z')
    with pytest.raises(BadInputError) as refused:
        build('classification', tmp_path, 'val')
    assert str(refused.value) == (
        f'{val} and {tmp_path}/imagenet/train do not have the same class folders (digit_3 is in '
        'one only), and their order numbers the labels: restore them.'
    )


@pytest.mark.parametrize('line', ['', 'x.png', 'x.png 10', 'x.png -1', 'x.png ²', 'x.png 1.0'])
def test_line_without_a_class_is_named(line, mini_data, tmp_path):
    shutil.copytree(mini_data, tmp_path, dirs_exist_ok=True)
    path = tmp_path / 'imagenet/meta/train.txt'
    path.parent.mkdir()
    path.write_text(f'digit_0/digit_0_00001.png 0\n{line}\n')
    with pytest.raises(BadInputError) as refused:
        build('classification', tmp_path)
    assert str(refused.value).startswith(f'{path}: line 2 is {line!r} instead of an image and its')
    path.write_text('')
    with pytest.raises(BadInputError, match=f'^{path} is empty: restore the file'):
        build('classification', tmp_path)
    path.write_text('x.png 3\nx.png 4\n')
    with pytest.raises(BadInputError, match='line 2 gives x.png the label 4, after 3 above'):
        build('classification', tmp_path)
