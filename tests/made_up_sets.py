# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A handful of made-up images in the layouts of the four public data sets of configs/."""

import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

CIFAR10 = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
# By their digest one each is for training, for validation and for testing.
NUCLEI = dict(train='a2', val='a0', test='a1')
OBJECT = """
    <object>
        <name>{name}</name>
        <difficult>{difficult}</difficult>
        <bndbox>
            <xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>
        </bndbox>
    </object>"""


def write_image(path, shape, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), rng.integers(0, 256, shape, np.uint8))


def write_cifar10(root, rng=None, each=10):
    """``{train,test}/<class>/NNNN.jpg``."""
    rng = rng or np.random.default_rng(0)
    for name in CIFAR10:
        for i in range(each):
            write_image(root / f'train/{name}/{i:04d}.jpg', (32, 32, 3), rng)
        write_image(root / f'test/{name}/0000.jpg', (32, 32, 3), rng)


def write_voc(root, objects, width=640, height=480):
    """``Annotations``, ``ImageSets/Main`` and ``JPEGImages``, an image for each split.

    Args:
        root (Path): Folder to write.
        objects (Sequence[tuple]): For each object name, corners and whether it is difficult.
        width (int): Of the images.
        height (int): Of the images.
    """
    rng = np.random.default_rng(0)
    (root / 'ImageSets/Main').mkdir(parents=True)
    (root / 'Annotations').mkdir()
    text = ''.join(
        OBJECT.format(name=name, box=box, difficult=int(difficult))
        for name, box, difficult in objects
    )
    for i, split in enumerate(('train', 'val', 'test')):
        names = [f'BloodImage_{i}{k}' for k in range(2)]
        (root / f'ImageSets/Main/{split}.txt').write_text('\n'.join([*names, '']))
        for name in names:
            write_image(root / f'JPEGImages/{name}.jpg', (height, width, 3), rng)
            (root / f'Annotations/{name}.xml').write_text(
                f'<annotation><size><width>{width}</width><height>{height}</height>'
                f'<depth>3</depth></size>{text}</annotation>'
            )


def write_nuclei(root, masks):
    """``<name>/images/<name>.png`` and ``<name>/masks/*.png``, an image for each split.

    Args:
        root (Path): Folder to write.
        masks (Sequence[np.ndarray]): Of each object, bool of the image's shape (H, W).
    """
    rng = np.random.default_rng(0)
    for name in NUCLEI.values():
        write_image(root / f'{name}/images/{name}.png', (*masks[0].shape, 4), rng)
        (root / name / 'masks').mkdir()
        for i, mask in enumerate(masks):
            cv2.imwrite(str(root / f'{name}/masks/{i}.png'), mask.astype(np.uint8) * 255)


def write_camvid(root, width=480, height=360):
    """``{images,annotations}/{train,val,test}``, with labels 0 to 11."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val', 'test'):
        for i in range(2):
            write_image(root / f'images/{split}/{i}.jpg', (height, width, 3), rng)
            labels = np.kron(rng.integers(0, 12, (height // 60, width // 60)), np.ones((60, 60)))
            path = root / f'annotations/{split}/{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), labels.astype(np.uint8))


def write_archives(folder):
    """The four archives, as they are published, with made-up images in them."""
    boxes = [('RBC', (20, 30, 120, 140), False), ('WBC', (200, 100, 420, 330), False)]
    masks = np.zeros((4, 128, 128), bool)
    for i, mask in enumerate(masks):
        mask[10 + 50 * (i % 2) : 40 + 50 * (i % 2), 8 + 60 * (i // 2) : 40 + 60 * (i // 2)] = True
    with TemporaryDirectory() as made:
        made = Path(made)
        write_cifar10(made / 'cifar10')
        write_voc(made / 'bccd', boxes)
        write_nuclei(made / 'stage1_train', masks)
        write_camvid(made / 'camvid')
        for name, mode, member in (
            ('cifar10.tar.xz', 'w:xz', 'cifar10'),
            ('bccd.tar.gz', 'w:gz', 'bccd'),
            ('dsb2018.tar.xz', 'w:xz', 'stage1_train'),
            ('camvid.tar', 'w', 'camvid'),
        ):
            with tarfile.open(folder / name, mode) as file:
                file.add(made / member, member)
