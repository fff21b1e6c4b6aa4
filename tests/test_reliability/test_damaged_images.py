# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Damaged images in the training sets; benchmarks/reliability.py injects a thousand."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from faults import damage
from faults.inputs import build, damaged_images
from mmdmformer.datasets.bad_input import BadInputError


def test_damaged_images_are_refused_by_name_or_read_as_they_were_drawn(tmp_path):
    outcome = damaged_images(60, tmp_path, seed=0)
    assert outcome.failures == []
    assert outcome.counts.total() == 60
    assert (
        min(outcome.counts[what] for what in ('refused with its name', 'read as it was drawn')) > 9
    )


@pytest.mark.parametrize('kind', damage.IMAGES)
def test_damage_is_what_it_says(kind):
    """Pillow, which the loader does not use, sees the image that must come out."""
    for seed in range(5):
        content, expected = damage.IMAGES[kind](np.random.default_rng(seed))
        if expected is None or kind == 'sixteen_bits':
            continue
        with Image.open(io.BytesIO(content)) as image:
            found = ImageOps.exif_transpose(image).convert('RGB')
        difference = np.abs(np.asarray(found, float) - np.asarray(expected, float)).mean()
        assert found.size == expected.size and difference < 4


@pytest.fixture
def scene(tmp_path, mini_data):
    """A training set for detection of one image of 96 x 128 stored pixels, and its two files."""
    root = tmp_path / 'coco'
    (root / 'train2017').mkdir(parents=True)
    (root / 'annotations').mkdir()
    content = json.loads((mini_data / 'coco/annotations/instances_train2017.json').read_text())
    content['images'] = [dict(id=1, file_name='x.jpg', height=96, width=128)]
    content['annotations'] = [
        dict(
            id=1, image_id=1, category_id=3, bbox=[8, 16, 40, 40], area=1600, iscrowd=0,
            segmentation=[[8, 16, 48, 16, 48, 56, 8, 56]],
        )
    ]  # fmt: skip
    return tmp_path, root / 'train2017/x.jpg', content


def read(scene, orientation, size):
    """What the loader gives for an image with this orientation whose annotation has this size."""
    folder, path, content = scene
    exif = Image.Exif()
    exif[damage.ORIENTATION] = orientation
    image = damage.smooth_image(np.random.default_rng(0), (128, 96))
    path.write_bytes(damage.encode(image, 'JPEG', exif=exif))
    content['images'][0].update(height=size[0], width=size[1])
    (folder / 'coco/annotations/instances_train2017.json').write_text(json.dumps(content))
    dataset = build('detection', folder)
    return dataset.pipeline(dataset.get_data_info(0))['data_samples']


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_boxes_belong_to_the_image_as_viewers_show_it(scene, orientation):
    stored, shown = (96, 128), (128, 96) if orientation > 4 else (96, 128)
    sample = read(scene, orientation, shown)
    assert sample.ori_shape == shown
    if shown == stored:
        return
    with pytest.raises(BadInputError) as refused:
        read(scene, orientation, stored)
    assert str(refused.value) == (
        f'image {scene[1]} has 128 x 96 pixels, but its annotation (id 1) is for 96 x 128: its '
        f'EXIF orientation {orientation} turns it; if the boxes are those of the stored pixels, '
        "set color_type='color_ignore_orientation' in LoadImageFromFile."
    )


def test_boxes_of_stored_pixels_are_read_with_the_named_setting(scene):
    with pytest.raises(BadInputError):
        read(scene, 6, (96, 128))
    dataset = build('detection', scene[0])
    dataset.pipeline.transforms[0].load.color_type = 'color_ignore_orientation'
    assert dataset.pipeline(dataset.get_data_info(0))['data_samples'].ori_shape == (96, 128)


def test_image_of_another_scene_is_refused(scene):
    with pytest.raises(
        BadInputError, match=r'is for 100 x 100: restore the right pair of files\.$'
    ):
        read(scene, 1, (100, 100))


def test_bomb_is_refused_before_it_is_decoded(scene):
    """Some hundred bytes that would be hundreds of megabytes."""
    folder, path, content = scene
    read(scene, 1, (96, 128))
    path.write_bytes(damage.encode(Image.new('1', (16_000, 16_000)), 'PNG'))
    dataset = build('detection', folder)
    with pytest.raises(BadInputError, match='DecompressionBombError.*256000000 pixels'):
        dataset[0]
