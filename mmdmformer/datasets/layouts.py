# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The layouts of complete data sets, and the commands that prepare them.

The converters write these layouts and ``tools/doctor.py`` looks for them. Nothing here opens an
image: names are counted.
"""

import hashlib
import json
import mmap
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from ..registry import type_name

MANIFEST = 'manifest.json'  # of the built-in data, which demo/make_mini_data.py writes
IMAGE_SUFFIXES = ('.jpeg', '.jpg', '.png')  # in small letters; ImageNet's own is .JPEG


@dataclass(frozen=True)
class Files:
    """Files in one folder, or in the class folders inside it.

    Attributes:
        folder (str): Below the data root.
        count (int): How many there are.
        classes (int): How many class folders they lie in; 0 where they lie in ``folder`` itself.
        suffixes (tuple[str, ...]): What their names end with, in small letters.
    """

    folder: str
    count: int
    classes: int = 0
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES

    def find_fault(self, root: Path, quiet: bool = True) -> str | None:
        """Say what is wrong with this part of the data set in ``root``, or return None."""
        folder = root / self.folder
        if not folder.is_dir():
            return f'{self.folder} is missing'
        places = [str(folder)]
        if self.classes:
            with os.scandir(folder) as entries:
                places = [entry.path for entry in entries if entry.is_dir()]
            if len(places) != self.classes:
                return f'{self.folder} has {len(places):,} class folders, not {self.classes:,}'
        tracked = _track(places, f'counting {folder}', quiet)
        found = sum(self._count(place) for place in tracked)
        if found != self.count:
            return f'{self.folder} holds {found:,} files, not {self.count:,}'
        return None

    def _count(self, place: str) -> int:
        with os.scandir(place) as entries:
            return sum(entry.name.lower().endswith(self.suffixes) for entry in entries)


@dataclass(frozen=True)
class Instances:
    """A JSON file with COCO's boxes and masks.

    Attributes:
        file (str): Below the data root.
        folder (str): Where its images lie, below the data root.
        count (int): How many images it describes.
    """

    file: str
    folder: str
    count: int

    def find_fault(self, root: Path, quiet: bool = True) -> str | None:
        """Say what is wrong with this part of the data set in ``root``, or return None.

        The file is not parsed, which takes gigabytes of memory for COCO's training images:
        :func:`~mmdmformer.datasets.converters.check_instance_file` does that.
        """
        path = root / self.file
        if not path.is_file():
            return f'{self.file} is missing'
        if path.stat().st_size == 0:
            return f'{self.file} is empty'
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            if not text[-100:].rstrip().endswith(b'}'):
                return f'{self.file} ends in the middle'
            # Images have a file name, and nothing else in such a file has.
            found = sum(1 for _ in re.finditer(b'"file_name"', text))
        if found != self.count:
            return f'{self.file} describes {found:,} images, not {self.count:,}'
        return None


@dataclass(frozen=True)
class Manifest:
    """The list of everything in the built-in data, with digests.

    Attributes:
        file (str): Below the data root.
    """

    file: str

    def find_fault(self, root: Path, quiet: bool = True) -> str | None:
        """Say what is wrong with this part of the data set in ``root``, or return None."""
        try:
            digests = json.loads((root / self.file).read_text(encoding='utf-8'))['files']
        except FileNotFoundError:
            return f'{self.file} is missing'
        except (OSError, ValueError, KeyError, TypeError):
            return f'{self.file} cannot be read'
        bad = [name for name, digest in digests.items() if _digest(root / name) != digest]
        if bad:
            return f'{len(bad):,} of its {len(digests):,} files are missing or changed ({bad[0]})'
        return None


def _track(sequence: list[str], description: str, quiet: bool) -> Iterable[str]:
    """Show a progress bar on stderr, and take it away in the end."""
    console = Console(stderr=True)
    quiet = quiet or not console.is_terminal
    return track(sequence, description, console=console, transient=True, disable=quiet)


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


Part = Files | Instances | Manifest


@dataclass(frozen=True)
class Layout:
    """A data set as the configs read it.

    Attributes:
        name (str): What people call it.
        root (str): Where the configs expect it, relative to the repository.
        dataset_type (str | None): The class that reads it in configs.
        prepare (str): The command that makes it.
        parts (tuple): Of :class:`Files`, :class:`Instances` or :class:`Manifest`.
    """

    name: str
    root: str
    dataset_type: str | None
    prepare: str
    parts: tuple[Part, ...]

    @property
    def files(self) -> list[Files]:
        """The parts that are :class:`Files`."""
        return [part for part in self.parts if isinstance(part, Files)]

    def find_faults(self, root: str | Path | None = None, quiet: bool = True) -> list[str]:
        """Compare a folder with this layout.

        Args:
            root (str | Path, optional): The folder. Defaults to where configs expect it.
            quiet (bool): Show no progress. Defaults to True.

        Returns:
            list[str]: What is wrong, each a clause without a full stop; empty where nothing is.
        """
        root = Path(self.root if root is None else root)
        if not root.is_dir():
            return ['there is no such directory']
        faults = (part.find_fault(root, quiet) for part in self.parts)
        return [fault for fault in faults if fault is not None]

    def command(self, root: str | Path) -> str:
        """The command that makes this data set in ``root``."""
        return self.prepare + ('' if Path(root) == Path(self.root) else f' --out {root}')

    @property
    def contents(self) -> str:
        """What a complete copy holds, in words."""
        counts = [f'{part.folder} {part.count:,}' for part in self.files]
        return ', '.join(counts) or 'every file as its manifest says'


IMAGENET = Layout(
    name='ImageNet-1K',
    root='data/imagenet',
    dataset_type='ImageNet',
    prepare='python tools/dataset_converters/imagenet.py ARCHIVES',
    parts=(Files('train', 1_281_167, classes=1000), Files('val', 50_000, classes=1000)),
)
COCO = Layout(
    name='COCO 2017',
    root='data/coco',
    dataset_type='CocoDataset',
    prepare='python tools/dataset_converters/coco.py ARCHIVES',
    parts=(
        Files('train2017', 118_287),
        Files('val2017', 5_000),
        Instances('annotations/instances_train2017.json', 'train2017', 118_287),
        Instances('annotations/instances_val2017.json', 'val2017', 5_000),
    ),
)
ADE20K = Layout(
    name='ADE20K',
    root='data/ade/ADEChallengeData2016',
    dataset_type='ADE20KDataset',
    prepare='python tools/dataset_converters/ade20k.py ARCHIVES',
    parts=(
        Files('images/training', 20_210, suffixes=('.jpg',)),
        Files('images/validation', 2_000, suffixes=('.jpg',)),
        Files('annotations/training', 20_210, suffixes=('.png',)),
        Files('annotations/validation', 2_000, suffixes=('.png',)),
    ),
)
MINI = Layout(
    name='built-in data',
    root='data/mini',
    dataset_type=None,
    prepare='python demo/make_mini_data.py',
    parts=(Manifest(MANIFEST),),
)
LAYOUTS = (IMAGENET, COCO, ADE20K, MINI)


def layout_of(dataset: Mapping, layouts: Iterable[Layout] = LAYOUTS) -> tuple[Layout, Path] | None:
    """The layout that the data set of a config must have.

    Args:
        dataset (Mapping): The config of a data set, with ``data_root``.
        layouts (Iterable[Layout]): The layouts to choose from.

    Returns:
        tuple[Layout, Path] | None: The layout and the folder that must have it. None for data of
        the user's own, such as COCO files with other classes, and for other annotations of the
        same images, such as key points.

    Examples:
        >>> layout, root = layout_of(dict(type='mmdet.CocoDataset', data_root='elsewhere/coco'))
        >>> layout.name, str(root)
        ('COCO 2017', 'elsewhere/coco')
        >>> layout, root = layout_of(dict(type='ImageNet', data_root='data/mini/imagenet'))
        >>> layout.name, str(root)
        ('built-in data', 'data/mini')
    """
    root = Path(dataset['data_root'])
    if (mini := _built_in_root(root)) is not None:
        return MINI, mini
    if 'classes' in dataset.get('metainfo', {}):
        return None
    name = type_name(dataset.get('type', ''))
    for layout in layouts:
        if layout.dataset_type == name:
            files = {part.file for part in layout.parts if isinstance(part, Instances)}
            own = files and dataset.get('ann_file', '') not in {'', *files}
            return None if own else (layout, root)
    return None


def _built_in_root(root: Path) -> Path | None:
    """The folder of the built-in data if ``root`` is one of the sets in it."""
    for published in (IMAGENET, COCO, ADE20K):
        depth = len(Path(published.root).parts) - 1
        if root.parts[-depth:] == Path(published.root).parts[1:]:
            above = root.parents[depth - 1]
            if above.name == 'mini' or (above / MANIFEST).is_file():
                return above
    return None
