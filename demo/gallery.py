# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A page of pictures in one file, which any browser shows without a network."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ margin: 1rem; font: 0.9rem/1.35 sans-serif; color: #222; background: #fafafa }}
h1 {{ font-size: 1.2rem }}
main {{ display: grid; gap: 0.75rem;
 grid-template-columns: repeat(auto-fill, minmax({side}px, 1fr)) }}
figure {{ margin: 0; padding: 0.5rem; background: #fff; border: 1px solid #ddd; border-radius: 4px;
 content-visibility: auto; contain-intrinsic-size: auto {side}px auto {tall}px }}
img {{ display: block; max-width: 100%; height: auto; margin: auto }}
figcaption {{ margin-top: 0.4rem; overflow-wrap: anywhere }}
figcaption b {{ display: block; font-weight: normal; color: #777 }}
</style>
</head>
<body>
<h1>{title}</h1>
{notes}<main>
{figures}
</main>
</body>
</html>
"""
FIGURE = (
    '<figure><img loading="lazy" decoding="async" width="{width}" height="{height}" alt="{name}" '
    'src="data:image/jpeg;base64,{data}"><figcaption><b>{name}</b>{label}</figcaption></figure>'
)


@dataclass
class Entry:
    """A picture of a gallery.

    Attributes:
        name (str): Such as its file's.
        label (str): What there is to say about it.
        thumbnail (bytes): JPEG.
        size (tuple[int, int]): Its width and height in pixels.
    """

    name: str
    label: str
    thumbnail: bytes
    size: tuple[int, int]


def make_entry(name: str, label: str, picture: Image.Image, side: int = 320) -> Entry:
    """Make an entry with a thumbnail.

    Args:
        name (str): Any text.
        label (str): Any text.
        picture (Image.Image): The picture.
        side (int): The thumbnail's longer side in pixels; smaller pictures
            stay as they are. Defaults to 320.

    Returns:
        Entry: The entry.
    """
    thumbnail = picture.convert('RGB')
    thumbnail.thumbnail((side, side))
    content = io.BytesIO()
    thumbnail.save(content, 'JPEG', quality=85)
    return Entry(name, label, content.getvalue(), thumbnail.size)


def write_gallery(
    entries: Sequence[Entry], path: str | Path, title: str, notes: Sequence[str] = ()
) -> None:
    """Write a gallery.

    Args:
        entries (Sequence[Entry]): The pictures, in order.
        path (str | Path): HTML file to write; folders are made.
        title (str): Any text.
        notes (Sequence[str]): Sentences above the pictures. Defaults to none.
    """
    figures = [
        FIGURE.format(
            name=_text(entry.name),
            label=_text(entry.label),
            width=entry.size[0],
            height=entry.size[1],
            data=base64.b64encode(entry.thumbnail).decode(),
        )
        for entry in entries
    ]
    side = max([160, *(max(entry.size) for entry in entries)])
    page = PAGE.format(
        title=_text(title),
        notes=''.join(f'<p>{_text(note)}</p>\n' for note in notes),
        figures='\n'.join(figures),
        side=side,
        tall=side + 60,
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding='utf-8')


def _text(text: str) -> str:
    # A file's name may hold bytes that are no text.
    return escape(text.encode('utf-8', 'replace').decode())
