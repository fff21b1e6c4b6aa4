# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Scenes of handwritten digits on photographs, composed from real images.

The material ships inside scikit-learn: 1797 scanned digits of 8 x 8 pixels and
two photographs. Each scan and each photograph region belongs to one split, so
that nothing seen in training appears in validation. (The scans do not name
their writers, so one writer may have scans in both splits.)

Images are ``uint8`` arrays of shape (H, W, 3) in OpenCV's BGR order.
"""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

NUM_DIGITS = 10
VAL_SHARE = 0.2  # of each digit's scans
VAL_ROWS = 144  # the lowest rows of each photograph are for validation
MIN_VISIBLE = 0.6  # of a digit's stroke
MIN_BRIGHTNESS = 0.65  # of a digit's color, of 0 to 1
HIGHLIGHTS = (0.25, 0.45)  # what the brightest parts of a photograph are dimmed to, of 0 to 1

_SCAN_SIDE, _SCAN_MAX = 8, 16.0
_ENLARGED = 12  # pixels for one scan pixel where the stroke's outline is drawn
_STROKE_LEVEL = 0.45  # ink coverage at which a scan pixel counts as stroke
_SOFT_EDGE = 8  # pixels around the outline, in the same units, where the ink fades out
_INK_GAIN = 1.3  # a much steeper edge would lose the faint ink that tells a 9 from a 7
_PLACEMENT_TRIES = 20


@dataclass(frozen=True)
class Photo:
    """The part of a photograph that belongs to one split.

    Attributes:
        name (str): File name of the photograph.
        top (int): Row of the photograph where the part begins.
        pixels (np.ndarray): uint8 of shape (H, W, 3), BGR.
    """

    name: str
    top: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Material:
    """What one split may draw from.

    Attributes:
        scans (np.ndarray): All scans, float32 of shape (N, 8, 8), 0 to 1.
        scans_of (list[np.ndarray]): For each digit, the indices of this
            split's scans in random order.
        photos (list[Photo]): This split's parts of the photographs.
    """

    scans: np.ndarray
    scans_of: list
    photos: list


@dataclass
class Digit:
    """A digit placed in a scene.

    Attributes:
        scan (int): Index of the scan in ``sklearn.datasets.load_digits``.
        label (int): The digit, 0 to 9.
        stroke (np.ndarray): bool of shape (H, W), the whole stroke.
        visible (np.ndarray): bool of shape (H, W), the part of the stroke
            that no later digit covers.
    """

    scan: int
    label: int
    stroke: np.ndarray
    visible: np.ndarray


@dataclass
class Scene:
    """An image and what it was made of.

    Attributes:
        image (np.ndarray): uint8 of shape (size, size, 3), BGR.
        photo (str): File name of the photograph behind the digits.
        crop (tuple[int, int, int, int]): Left, top, width and height of the
            crop in the whole photograph, in pixels.
        digits (list[Digit]): The digits, lowest first.
    """

    image: np.ndarray
    photo: str
    crop: tuple
    digits: list = field(default_factory=list)


def load_material(seed):
    """Load scikit-learn's images and split them.

    Args:
        seed (int): Decides which scans are for validation. The regions of the
            photographs are always the same.

    Returns:
        dict[str, Material]: Under the keys ``'train'`` and ``'val'``.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits, load_sample_images
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'the built-in data is made of images that ship inside scikit-learn, which is not '
            "installed: run 'pip install scikit-learn pillow'."
        ) from error
    digits, samples = load_digits(), load_sample_images()
    rng = np.random.default_rng(seed)
    scans_of = {'train': [], 'val': []}
    for label in range(NUM_DIGITS):
        order = rng.permutation(np.flatnonzero(digits.target == label))
        num_val = round(VAL_SHARE * len(order))
        scans_of['val'].append(order[:num_val])
        scans_of['train'].append(order[num_val:])
    photos = {'train': [], 'val': []}
    for path, rgb in zip(samples.filenames, samples.images, strict=True):
        name = Path(path).name
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        border = len(bgr) - VAL_ROWS
        photos['train'].append(Photo(name, 0, bgr[:border]))
        photos['val'].append(Photo(name, border, bgr[border:]))
    scans = (digits.images / _SCAN_MAX).astype(np.float32)
    return {split: Material(scans, scans_of[split], photos[split]) for split in scans_of}


def compose_scene(material, rng, size, choices, sides, max_angle, max_shift=None):
    """Draw digits on a random crop of a photograph.

    A digit that cannot be placed without hiding more than 40 % of an earlier
    digit's stroke is left out; the first can always be placed.

    Args:
        material (Material): The split to draw from.
        rng (np.random.Generator): The only source of chance.
        size (int): Width and height of the image in pixels.
        choices (list[tuple[int, int]]): Scan index and label of each digit,
            lowest first.
        sides (tuple[float, float]): Range of the longer side of a digit's box
            in pixels.
        max_angle (float): Digits are rotated by up to this many degrees either
            way.
        max_shift (int, optional): How many pixels a digit may lie off the
            center, either way. By default it may lie anywhere.

    Returns:
        Scene: The image and what it was made of.
    """
    scene = _background(material, rng, size)
    for scan, label in choices:
        side = min(rng.uniform(*sides), 0.8 * size)  # leaves room for the soft edge
        alpha = render_stroke(material.scans[scan], side, rng.uniform(-max_angle, max_angle))
        placed = _place(alpha, scene.digits, rng, size, max_shift)
        if placed is None:
            continue
        stroke = placed >= 0.5
        for digit in scene.digits:
            digit.visible &= ~stroke
        scene.digits.append(Digit(int(scan), int(label), stroke, stroke.copy()))
        scene.image = _paint(scene.image, placed, rng)
    return scene


def render_stroke(scan, side, angle):
    """Enlarge and rotate a scan to a smooth stroke.

    Args:
        scan (np.ndarray): float32 of shape (8, 8), ink coverage from 0 to 1.
        side (float): Longer side of the stroke's box in pixels.
        angle (float): Counter-clockwise rotation in degrees.

    Returns:
        np.ndarray: Opacity, float32 of shape (h, w) from 0 to 1. It is at
        least 0.5 on the stroke, and the box is tight but for a margin, which
        holds the soft edge.
    """
    canvas = _ENLARGED * (_SCAN_SIDE + 6)  # wide enough for the corners at any angle
    turn = cv2.getRotationMatrix2D(((_SCAN_SIDE - 1) / 2,) * 2, angle, _ENLARGED)
    turn[:, 2] += (canvas - 1) / 2 - (_SCAN_SIDE - 1) / 2
    ink = cv2.warpAffine(scan, turn, (canvas, canvas), flags=cv2.INTER_CUBIC)
    left, top, width, height = cv2.boundingRect((ink >= _STROKE_LEVEL).astype(np.uint8))
    scale = (side - 0.5) / max(width, height)
    left, top = left - _SOFT_EDGE, top - _SOFT_EDGE
    width, height = width + 2 * _SOFT_EDGE, height + 2 * _SOFT_EDGE
    ink = ink[top : top + height, left : left + width]
    ink = _resize(ink, round(width * scale), round(height * scale))
    return np.clip((ink - _STROKE_LEVEL) * _INK_GAIN + 0.5, 0, 1)


def _background(material, rng, size):
    """Crop a photograph at a random place, zoom, direction and exposure."""
    photo = material.photos[rng.integers(len(material.photos))]
    height, width = photo.pixels.shape[:2]
    largest = VAL_ROWS  # the same range of zoom in both splits
    side = int(rng.integers(min(largest, round(0.75 * size)), largest + 1))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    crop = photo.pixels[top : top + side, left : left + side]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    image = _resize(np.ascontiguousarray(crop), size, size)
    highlights = rng.uniform(*HIGHLIGHTS)
    dimming = min(1.0, highlights / np.percentile(_luma(image), 95))
    image = (image * dimming).astype(np.uint8)
    return Scene(image, photo.name, (left, photo.top + top, side, side))


def _place(alpha, below, rng, size, max_shift):
    """Put ``alpha`` on a canvas of ``size`` where it leaves the digits below visible."""
    height, width = alpha.shape
    for _ in range(_PLACEMENT_TRIES):
        top = _offset(size - height, max_shift, rng)
        left = _offset(size - width, max_shift, rng)
        placed = np.zeros((size, size), np.float32)
        placed[top : top + height, left : left + width] = alpha
        free = placed < 0.5
        if all((d.visible & free).sum() >= MIN_VISIBLE * d.stroke.sum() for d in below):
            return placed
    return None


def _offset(room, max_shift, rng):
    center = room // 2
    shift = center if max_shift is None else min(center, max_shift)
    return rng.integers(center - shift, room - center + shift + 1)


def _paint(image, alpha, rng):
    """Blend a stroke into ``image`` in a random bright color.

    A soft shadow around it keeps its outline legible on other digits too.
    """
    color = _bright_color(rng)
    reach = max(1.0, image.shape[0] / 64)
    shadow = 0.65 * np.minimum(1, 2 * cv2.GaussianBlur(alpha, (0, 0), reach))[..., None]
    alpha = alpha[..., None]
    return np.rint(image * (1 - shadow) * (1 - alpha) + color * alpha).astype(np.uint8)


def _bright_color(rng):
    """Draw a BGR color that is bright enough to stand out from a dimmed photograph."""
    while True:
        color = rng.uniform(0, 255, 3)
        if _luma(color) >= MIN_BRIGHTNESS:
            return color


def _luma(bgr):
    """Brightness of 8-bit BGR values from 0 to 1 (ITU-R BT.601)."""
    return bgr @ np.array([0.114, 0.587, 0.299]) / 255


def _resize(image, width, height):
    shrinks = width < image.shape[1]
    return cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    )
