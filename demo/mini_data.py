# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The built-in data: digits on photographs, laid out as ImageNet, COCO and ADE20K are.

::

    data/mini/
      manifest.json            parameters, sources of every image, a digest of every file
      imagenet/{train,val}/digit_0..digit_9/*.png
      coco/{train2017,val2017}/*.jpg
      coco/annotations/instances_{train,val}2017.json
      ade/ADEChallengeData2016/{images,annotations}/{training,validation}/*.{jpg,png}
"""

import hashlib
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
from rich.progress import Progress

from digit_scenes import NUM_DIGITS, compose_scene, load_material
from mmdmformer.datasets.layouts import MANIFEST

CLASSES = tuple(f'digit_{digit}' for digit in range(NUM_DIGITS))
SEG_CLASSES = ('background', *CLASSES)
FORMAT = 3  # raise it with every change of what is written, so that older folders are noticed

_SPLITS = ('train', 'val')
_MAX_DIGITS = 3  # in a scene
_SIDES = (40, 88)  # of a digit in a scene, in pixels at 128 x 128
_EMPTY_SHARE = 0.02  # of the images for detection
_MAX_ANGLE = 6


class MiniDataError(RuntimeError):
    """A folder that holds something else than what was asked for."""


def make_mini_data(
    out_dir='data/mini',
    seed=1,
    scale=1.0,
    *,
    classification=(8000, 1000),
    detection=(600, 150),
    segmentation=(1500, 150),
    classification_size=64,
    scene_size=128,
    force=False,
    quiet=False,
):
    """Write the three built-in sets, or check that they are already there.

    The same arguments give the same bytes (with the same OpenCV). A folder
    that exists is reused if every file in it is as it was written for these
    arguments. Files appear under ``out_dir`` all at once, when complete.

    Args:
        out_dir (str | Path): Folder to write.
        seed (int): Decides everything random, which scans are for validation
            included. At least 0.
        scale (float): Multiplies all numbers of images; each stays at least 10.
        classification (tuple[int, int]): Numbers of images for training and
            validation in the ImageNet layout.
        detection (tuple[int, int]): The same in the COCO layout. Two in a
            hundred images, and at least one, show no digit.
        segmentation (tuple[int, int]): The same in the ADE20K layout.
        classification_size (int): Width and height in pixels of the images
            for classification.
        scene_size (int): The same for detection and segmentation.
        force (bool): Rewrite a folder that this function made before. Any
            other folder is left alone all the same.
        quiet (bool): Print nothing.

    Returns:
        Path: The absolute path of the folder.

    Raises:
        MiniDataError: If ``out_dir`` holds anything but what these arguments
            give. With ``force``, if it holds anything that this function did
            not write.
        ValueError: If ``seed``, ``scale`` or a size is out of range.
    """
    out_dir = Path(out_dir).expanduser().resolve()
    parameters = _parameters(
        seed, scale, classification, detection, segmentation, classification_size, scene_size
    )
    if out_dir.exists() and not _is_empty_folder(out_dir):
        manifest = _own_manifest(out_dir)
        if not force:
            _verify(out_dir, manifest, parameters)
            if not quiet:
                print(f'{out_dir} is complete and unchanged: reusing it.')
            return out_dir
    partial = out_dir.with_name(f'.{out_dir.name}.partial-{os.getpid()}')
    try:
        _write(partial, parameters, quiet)
        _move_into_place(partial, out_dir, parameters, force)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if not quiet:
        print(f'wrote {out_dir}')
    return out_dir


def _parameters(seed, scale, classification, detection, segmentation, cls_size, scene_size):
    """Check the arguments and return what the manifest records of them."""
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f'seed must be an integer of at least 0, but is {seed!r}.')
    if not scale > 0:
        raise ValueError(f'scale must be greater than 0, but is {scale!r}.')
    for name, size in (('classification_size', cls_size), ('scene_size', scene_size)):
        if size < 32:
            raise ValueError(f'{name} must be at least 32 pixels, but is {size!r}.')

    def scaled(counts):
        return [max(10, round(count * scale)) for count in counts]

    return {
        'format': FORMAT,
        'seed': seed,
        'classification': scaled(classification),
        'detection': scaled(detection),
        'segmentation': scaled(segmentation),
        'classification_size': cls_size,
        'scene_size': scene_size,
    }


# Writing


class _Folder:
    """A folder under construction that remembers the digest and the sources of what it holds."""

    def __init__(self, root):
        self.root = root
        self.files = {}
        self.sources = {}

    def write(self, path, content):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        self.files[path] = hashlib.sha256(content).hexdigest()

    def write_image(self, path, image):
        options = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.endswith('.jpg') else []
        self.write(path, cv2.imencode(path[-4:], image, options)[1].tobytes())

    def write_scene(self, path, scene):
        self.write_image(path, scene.image)
        self.sources[path] = {
            'photo': scene.photo,
            'crop': scene.crop,
            'scans': [digit.scan for digit in scene.digits],
        }


def _write(root, parameters, quiet):
    material = load_material(parameters['seed'])
    folder = _Folder(root)
    with Progress(disable=quiet) as progress:
        for task, (name, write) in enumerate(_WRITERS.items()):
            for part, split in enumerate(_SPLITS):
                stream = [parameters['seed'], task, part]
                images = range(parameters[name][part])
                images = progress.track(images, description=f'{name} {split}')
                # An image depends on its own number alone, not on what was drawn before it.
                numbered = ((i, np.random.default_rng([*stream, i])) for i in images)
                write(folder, split, material[split], parameters, numbered)
    manifest = {'parameters': parameters, 'files': folder.files, 'sources': folder.sources}
    (root / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding='utf-8')


def _write_classification(folder, split, material, parameters, numbered):
    size = parameters['classification_size']
    # A digit lies within the central 90 %, which is what ImageNet's usual test crop keeps.
    sides, max_shift = (0.55 * size, 0.8 * size), round(0.05 * size)
    for i, rng in numbered:
        label, turn = i % NUM_DIGITS, i // NUM_DIGITS
        scans = material.scans_of[label]
        choice = (scans[turn % len(scans)], label)  # every scan equally often
        scene = compose_scene(material, rng, size, [choice], sides, _MAX_ANGLE, max_shift)
        name = CLASSES[label]
        folder.write_scene(f'imagenet/{split}/{name}/{name}_{turn + 1:05d}.png', scene)


def _write_detection(folder, split, material, parameters, numbered):
    num_train, num_val = parameters['detection']
    count, first_id = (num_train, 1) if split == 'train' else (num_val, num_train + 1)
    num_empty = max(1, round(_EMPTY_SHARE * count))
    images, annotations = [], []
    for i, rng in numbered:
        empty = i >= count - num_empty
        scene = _random_scene(material, rng, parameters['scene_size'], empty)
        image_id = first_id + i
        name = f'{image_id:012d}.jpg'
        folder.write_scene(f'coco/{split}2017/{name}', scene)
        height, width = scene.image.shape[:2]
        images.append({'id': image_id, 'file_name': name, 'height': height, 'width': width})
        for k, digit in enumerate(scene.digits):
            annotation = {'id': image_id * 10 + k, 'image_id': image_id}
            annotations.append(annotation | _coco_instance(digit))
    content = {
        'info': {'description': 'scikit-learn digits on photographs, in the layout of COCO'},
        'licenses': [],
        'images': images,
        'annotations': annotations,
        'categories': [
            {'id': k + 1, 'name': name, 'supercategory': 'digit'} for k, name in enumerate(CLASSES)
        ],
    }
    path = f'coco/annotations/instances_{split}2017.json'
    folder.write(path, json.dumps(content, separators=(',', ':')).encode())


def _write_segmentation(folder, split, material, parameters, numbered):
    split_folder = {'train': 'training', 'val': 'validation'}[split]
    for i, rng in numbered:
        scene = _random_scene(material, rng, parameters['scene_size'])
        name = f'{split_folder}/ADE_{split}_{i + 1:08d}'
        folder.write_scene(f'ade/ADEChallengeData2016/images/{name}.jpg', scene)
        folder.write_image(f'ade/ADEChallengeData2016/annotations/{name}.png', _seg_map(scene))


_WRITERS = {
    'classification': _write_classification,
    'detection': _write_detection,
    'segmentation': _write_segmentation,
}


def _random_scene(material, rng, size, empty=False):
    """A scene of one to three digits, or of none."""
    count = 0 if empty else rng.integers(1, _MAX_DIGITS + 1)
    labels = rng.integers(NUM_DIGITS, size=count)
    choices = [(rng.choice(material.scans_of[label]), label) for label in labels]
    sides = tuple(side * size / 128 for side in _SIDES)
    return compose_scene(material, rng, size, choices, sides, _MAX_ANGLE)


def _coco_instance(digit):
    """What COCO says of an instance: category, tight box, area and mask."""
    rows, columns = np.nonzero(digit.visible)
    left, top = int(columns.min()), int(rows.min())
    return {
        'category_id': digit.label + 1,
        'iscrowd': 0,
        'bbox': [left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top],
        'area': int(digit.visible.sum()),
        'segmentation': _run_lengths(digit.visible),
    }


def _run_lengths(mask):
    """Encode a mask in COCO's uncompressed form.

    Polygons cannot hold the holes of 0, 6, 8 and 9; run lengths are exact.

    Args:
        mask (np.ndarray): bool of shape (H, W).

    Returns:
        dict: ``size`` [H, W] and ``counts``, the lengths of alternating runs
        of 0 and 1 in column-major order, 0 first.

    Examples:
        >>> _run_lengths(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': [1, 3]}
        >>> _run_lengths(np.array([[True], [False], [True]]))
        {'size': [3, 1], 'counts': [0, 1, 1, 1]}
    """
    pixels = mask.ravel(order='F')
    changes = np.flatnonzero(np.diff(pixels, prepend=False))
    counts = np.diff(changes, prepend=0, append=pixels.size)
    return {'size': list(mask.shape), 'counts': counts.tolist()}


def _seg_map(scene):
    """Label every pixel: 1 is photograph, 2 to 11 are the digits, 0 a rim around each stroke."""
    seg_map = np.ones(scene.image.shape[:2], np.uint8)
    for digit in scene.digits:
        seg_map[cv2.dilate(digit.stroke.astype(np.uint8), np.ones((3, 3))) > 0] = 0
        seg_map[digit.stroke] = digit.label + 2
    return seg_map


def _move_into_place(partial, out_dir, parameters, force):
    if force and out_dir.exists():
        shutil.rmtree(out_dir)  # if this is interrupted, the rest no longer fits its manifest
    try:
        partial.rename(out_dir)
    except OSError:
        if not out_dir.exists():
            raise
        _verify(out_dir, _own_manifest(out_dir), parameters)  # another process was faster


# Checking


def _is_empty_folder(path):
    return path.is_dir() and not any(path.iterdir())


def _own_manifest(out_dir):
    """Read the manifest of a folder that holds nothing but what is listed in it.

    Raises:
        MiniDataError: If there is no such manifest or there are other files.
    """
    try:
        manifest = json.loads((out_dir / MANIFEST).read_text(encoding='utf-8'))
        listed = {MANIFEST, *manifest['files']}
        manifest['parameters']['seed']
    except (OSError, ValueError, KeyError, TypeError):
        raise MiniDataError(
            f'{out_dir} exists without a valid {MANIFEST}, so it is not built-in data and was left '
            'as it is: move it away or choose another folder.'
        ) from None
    present = (p for p in out_dir.rglob('*') if not p.is_dir())
    foreign = sorted({p.relative_to(out_dir).as_posix() for p in present} - listed)
    if foreign:
        raise MiniDataError(
            f'{out_dir} holds {_some(foreign)} that the built-in data does not have: '
            'move that out of the folder or choose another folder.'
        )
    return manifest


def _verify(out_dir, manifest, parameters):
    """Raise MiniDataError unless the folder is what ``parameters`` gave when it was written."""
    cure = 'rewrite it with --force (force=True) or choose another folder.'
    made_with = manifest['parameters']
    for name, wanted in parameters.items():
        if made_with.get(name) != wanted:
            raise MiniDataError(
                f'{out_dir} was made with {name} {made_with.get(name)}, not {wanted}: {cure}'
            )
    missing = [path for path in manifest['files'] if not (out_dir / path).is_file()]
    if missing:
        raise MiniDataError(f'{out_dir} lacks {_some(missing)}: {cure}')
    changed = [
        path
        for path, digest in manifest['files'].items()
        if hashlib.sha256((out_dir / path).read_bytes()).hexdigest() != digest
    ]
    if changed:
        raise MiniDataError(
            f'{out_dir} was changed after it was written, in {_some(changed)}: {cure}'
        )


def _some(paths):
    """Name one file, or the first of several and their number."""
    return paths[0] if len(paths) == 1 else f'{len(paths)} files such as {paths[0]}'
