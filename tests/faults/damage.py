# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Images, label maps, annotations and configs as they arrive when something went wrong.

Everything random comes from the generator that is passed.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SIDE = 128  # of the built-in scenes, in pixels
ORIENTATION = 0x0112  # EXIF's tag


def smooth_image(rng: np.random.Generator, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """An RGB image of few frequencies, which survives lossy formats.

    Args:
        rng (np.random.Generator): Decides the colors.
        size (tuple[int, int]): Width and height in pixels. Defaults to the built-in scenes'.
    """
    colors = Image.fromarray(rng.integers(256, size=(4, 4, 3), dtype=np.uint8))
    return colors.resize(size, Image.Resampling.BILINEAR)


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of a file.

    Args:
        image (Image.Image): The image.
        form (str): Pillow's name of the format.
        options (Any): For ``Image.save``.
    """
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def corrupt(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut, clear, flip, insert or repeat bytes, as a bad disk or an interrupted copy does."""
    start, stop = sorted(rng.integers(len(content) + 1, size=2).tolist())
    changed = bytearray(content)
    match rng.integers(5):
        case 0:
            return content[:start]
        case 1:
            changed[start:stop] = bytes(stop - start)
        case 2:
            for place in rng.integers(len(content), size=rng.integers(1, 20)):
                changed[place] ^= 1 << rng.integers(8)
        case 3:
            changed[start:start] = rng.bytes(rng.integers(1, 20))
        case 4:
            changed[stop:stop] = content[start:stop]
    return bytes(changed)


# Images: each returns the bytes, and the image that they must give or None where there is none.

FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP', 'TIFF', 'GIF')


def truncated(rng: np.random.Generator) -> tuple[bytes, None]:
    """A file that ends early."""
    content = encode(smooth_image(rng), rng.choice(FORMATS))
    return content[: rng.integers(len(content) - 2)], None


def no_image(rng: np.random.Generator) -> tuple[bytes, None]:
    """An empty file, zeros, an error page, a pointer of git-lfs, or noise."""
    contents = (
        b'',
        bytes(1000),
        b'<html><body>404 Not Found</body></html>',
        b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n',
        rng.bytes(1000),
    )
    return contents[rng.integers(len(contents))], None


def other_format(rng: np.random.Generator) -> tuple[bytes, Image.Image]:
    """A format that the file's name does not tell."""
    image = smooth_image(rng)
    form = rng.choice([form for form in FORMATS if form != 'GIF'])
    return encode(image, form, **({'quality': 95} if form in ('JPEG', 'WEBP') else {})), image


def other_mode(rng: np.random.Generator) -> tuple[bytes, Image.Image]:
    """CMYK, gray, gray with alpha, alpha, palette or one bit."""
    mode, form = (
        ('CMYK', 'JPEG'),
        ('CMYK', 'TIFF'),
        ('L', 'JPEG'),
        ('L', 'PNG'),
        ('LA', 'PNG'),
        ('RGBA', 'PNG'),
        ('P', 'PNG'),
        ('P', 'GIF'),
        ('1', 'PNG'),
    )[rng.integers(9)]
    image = smooth_image(rng).convert(mode)
    if mode in ('LA', 'RGBA'):  # what lies under the alpha channel counts
        image.putalpha(Image.fromarray(rng.integers(256, size=(SIDE, SIDE), dtype=np.uint8)))
    return encode(image, form), image.convert('RGB')


def sixteen_bits(rng: np.random.Generator) -> tuple[bytes, Image.Image]:
    """Gray values of 16 bits, of which the higher eight count."""
    values = np.asarray(smooth_image(rng).convert('L'))
    low = rng.integers(256, size=values.shape, dtype=np.uint16)
    image = Image.fromarray(values.astype(np.uint16) * 256 + low)
    return encode(image, rng.choice(['PNG', 'TIFF'])), Image.fromarray(values).convert('RGB')


def animated(rng: np.random.Generator) -> tuple[bytes, Image.Image]:
    """Several frames, of which the first counts."""
    first, *others = (smooth_image(rng).convert('P') for _ in range(3))
    form = rng.choice(['GIF', 'PNG', 'WEBP'])
    options = {'lossless': True} if form == 'WEBP' else {}
    if form != 'GIF':
        first, *others = (frame.convert('RGB') for frame in (first, *others))
    content = encode(first, form, save_all=True, append_images=others, duration=40, **options)
    return content, first.convert('RGB')


def turned(rng: np.random.Generator) -> tuple[bytes, Image.Image]:
    """One of the eight EXIF orientations, which the loader applies as viewers do."""
    image, exif = smooth_image(rng), Image.Exif()
    exif[ORIENTATION] = orientation = int(rng.integers(1, 9))
    transposed = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]
    upright = image if transposed is None else image.transpose(transposed)
    return encode(image, 'JPEG', quality=95, exif=exif), upright


def other_size(rng: np.random.Generator) -> tuple[bytes, Image.Image]:
    """One pixel, a line, or a size that is no multiple of anything."""
    sides = [(1, 1), (1, 300), (300, 1), (2, 3), (97, 61)][rng.integers(5)]
    image = smooth_image(rng, sides)
    return encode(image, 'PNG'), image


def huge(rng: np.random.Generator) -> tuple[bytes, None]:
    """A small file that claims billions of pixels."""
    content = bytearray(encode(smooth_image(rng), 'PNG'))
    sides = rng.integers(20_000, 2**31, size=2).tolist()
    content[16:24] = struct.pack('>II', *sides)
    content[29:33] = struct.pack('>I', zlib.crc32(content[12:29]))
    return bytes(content), None


IMAGES = dict(
    truncated=truncated,
    no_image=no_image,
    other_format=other_format,
    other_mode=other_mode,
    sixteen_bits=sixteen_bits,
    animated=animated,
    turned=turned,
    other_size=other_size,
    huge=huge,
)


# Label maps: the bytes and the labels that they must give, or None where they must be refused.


def damaged_map(labels: np.ndarray, rng: np.random.Generator) -> tuple[bytes, np.ndarray | None]:
    """A label map in another form, or broken.

    Args:
        labels (np.ndarray): uint8 of shape (H, W).
        rng (np.random.Generator): Decides what happens.
    """
    image = Image.fromarray(labels)
    exif = Image.Exif()
    exif[ORIENTATION] = int(rng.integers(2, 9))
    wrong = labels.copy()
    wrong[tuple(rng.integers(labels.shape))] = rng.integers(12, 255)
    palette = image.copy()
    palette.putpalette(rng.bytes(768))
    wide = labels.astype(np.uint16)
    beyond = wide.copy()
    beyond[tuple(rng.integers(labels.shape))] += 256 * int(rng.integers(1, 256))
    forms = [
        (encode(palette, 'PNG'), labels),
        (encode(image, 'TIFF'), labels),
        (encode(image, 'BMP'), labels),
        (encode(Image.fromarray(wide), 'PNG'), labels),
        (encode(Image.fromarray(labels.astype(np.float32)), 'TIFF'), labels),
        (encode(Image.fromarray(beyond), 'PNG'), None),
        (encode(Image.fromarray(labels + np.float32(0.5)), 'TIFF'), None),
        (encode(Image.fromarray(wrong), 'PNG'), None),
        (encode(image, 'JPEG'), None),
        (encode(image, 'PNG', exif=exif), None),
        (encode(palette.convert('RGB'), 'PNG'), None),
        (encode(image.convert('LA'), 'PNG'), None),
        (encode(image.resize((SIDE, SIDE - 1)), 'PNG'), None),
        no_image(rng),
    ]
    return forms[rng.integers(len(forms))]


# JSON

_JUNK = (
    None, True, -1, 0, 0.5, 3, 10**9, 10**400, float('nan'), float('inf'), '', 'x', '3', '../x',
    [], {}, [[]], [None], {'size': [1, 1]}, [1e9, 1, 5, 1e9, 7, 8],
)  # fmt: skip


def damaged_json(content: Any, rng: np.random.Generator) -> bytes:
    """A JSON file with a few wrong values, or with wrong bytes.

    Args:
        content (Any): What it held.
        rng (np.random.Generator): Decides what happens.
    """
    text = json.dumps(content)
    if rng.random() < 0.3:
        return corrupt(text.encode(), rng)
    content = {'root': json.loads(text)}
    for _ in range(rng.integers(1, 4)):
        _damage_value(content, rng)
    return json.dumps(content.get('root')).encode()


def _damage_value(node: Any, rng: np.random.Generator) -> None:
    """Walk down to some place, and damage what is there."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if not keys:
        return
    key = keys[rng.integers(len(keys))]
    child = node[key]
    if isinstance(child, (dict, list)) and child and rng.random() < 0.9:
        _damage_value(child, rng)
        return
    match rng.integers(4):
        case 0:
            del node[key]
        case 1 | 2:
            node[key] = _JUNK[rng.integers(len(_JUNK))]
        case 3:
            other = keys[rng.integers(len(keys))]
            node[key], node[other] = node[other], node[key]


def damaged_text(text: str, rng: np.random.Generator) -> bytes:
    """A list or a config with wrong bytes, or with its lines lost, doubled or mixed."""
    if rng.random() < 0.5:
        return corrupt(text.encode(), rng)
    lines = text.splitlines()
    for _ in range(rng.integers(1, 4)):
        place, other = rng.integers(len(lines), size=2)
        match rng.integers(4):
            case 0:
                lines[place] = ''
            case 1:
                lines.insert(place, lines[other])
            case 2:
                lines[place], lines[other] = lines[other], lines[place]
            case 3:
                words = lines[place].split(' ')
                words[rng.integers(len(words))] = rng.choice(['x', '-1', '99', '1e9', '', 'None'])
                lines[place] = ' '.join(words)
    return '\n'.join(lines).encode()
