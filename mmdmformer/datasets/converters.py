# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Converters from the published archives of ImageNet, COCO and ADE20K to the expected layouts."""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from .archives import (
    ArchiveError,
    Member,
    byte_progress,
    is_complete,
    open_archive,
    open_inner_tar,
    require_space,
    unpack,
)
from .bad_input import BadInputError
from .instances import check_instances
from .layouts import ADE20K, COCO, IMAGENET, Files, Instances, Layout, Part

IMAGENET_TRAIN = 'ILSVRC2012_img_train.tar'
IMAGENET_VAL = 'ILSVRC2012_img_val.tar'
IMAGENET_DEVKIT = 'ILSVRC2012_devkit_t12.tar.gz'
COCO_ANNOTATIONS = 'annotations_trainval2017.zip'
ADE20K_ARCHIVE = 'ADEChallengeData2016.zip'


def run_converter(
    description: str, names: str, prepare: Callable[[str, str], None], layout: Layout
) -> None:
    """Prepare a data set as the command line says.

    Args:
        description (str): What ``--help`` says first.
        names (str): Names of the archives.
        prepare (Callable): Takes the folder of the archives and the folder to write.
        layout (Layout): What it makes.

    Raises:
        SystemExit: With code 1, after one sentence on stderr, if it cannot be done; with 130 if it
            is interrupted.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('archives', help=f'directory with {names}')
    parser.add_argument(
        '--out', default=layout.root, help='output directory (default: %(default)s)'
    )
    args = parser.parse_args()
    try:
        prepare(args.archives, args.out)
    except (ArchiveError, ModuleNotFoundError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print('interrupted: run the same command again to go on.', file=sys.stderr)
        sys.exit(130)


def prepare_imagenet(
    archives: str | Path,
    out: str | Path = IMAGENET.root,
    *,
    layout: Layout = IMAGENET,
    quiet: bool = False,
) -> None:
    """Unpack ImageNet-1K into ``out/{train,val}/<class>/*.JPEG``.

    Run again after an interruption, it goes on. An archive may be missing once its part is
    complete.

    Args:
        archives (str | Path): Folder with the archives of the ILSVRC 2012 classification task: the
            training images, the validation images and the development kit.
        out (str | Path): Folder to write.
        layout (Layout): What must be there in the end. Defaults to ImageNet's.
        quiet (bool): Show no progress. Defaults to False.

    Raises:
        ArchiveError: If an archive is missing, damaged, or not what was published, if the disk is
            too small, or if the result is not complete.
        ModuleNotFoundError: If SciPy, which reads the development kit, is not installed.
    """
    archives, out = Path(archives), Path(out)
    train, val = layout.files
    if _needed(archives / IMAGENET_TRAIN, [train], out, quiet):
        _unpack_imagenet_train(archives / IMAGENET_TRAIN, out, train, quiet)
    if _needed(archives / IMAGENET_VAL, [val], out, quiet):
        _unpack_imagenet_val(archives, out, val, quiet)
    _require_complete(layout, out, quiet)


def read_validation_classes(devkit: Path) -> dict[int, str]:
    """The class of each validation image, from ImageNet's development kit.

    Args:
        devkit (Path): ``ILSVRC2012_devkit_t12.tar.gz``. Its ground truth numbers the classes by
            ILSVRC2012_ID, whose order is neither that of the WordNet IDs (WNID) nor of any file
            name; ``meta.mat`` translates.

    Returns:
        dict[int, str]: The WordNet ID by the image's number, from 1.

    Raises:
        ArchiveError: If the archive is damaged or one of the two files is not in it.
        ModuleNotFoundError: If SciPy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{devkit.name} holds a MATLAB file, which needs SciPy: run `pip install scipy`.'
        ) from error
    with open_archive(devkit) as members:
        meta, truth = (
            _member_named(members, name, devkit)
            for name in ('data/meta.mat', 'data/ILSVRC2012_validation_ground_truth.txt')
        )
        with meta.open() as file:
            synsets = loadmat(file)['synsets'].ravel()
        with truth.open() as file:
            ids = [int(line) for line in file.read().split()]
        wnid_of = {int(s['ILSVRC2012_ID'].item()): str(s['WNID'].item()) for s in synsets}
        return {
            number: _class_folder(wnid_of[class_id], devkit)
            for number, class_id in enumerate(ids, 1)
        }


def prepare_coco(
    archives: str | Path,
    out: str | Path = COCO.root,
    *,
    layout: Layout = COCO,
    quiet: bool = False,
) -> None:
    """Unpack COCO 2017 into ``out/{train2017,val2017,annotations}``, and check its annotations.

    Run again after an interruption, it goes on. An archive may be missing once its part is
    complete, so that an existing copy can be checked with no archives at all.

    Args:
        archives (str | Path): Folder with ``train2017.zip``, ``val2017.zip`` and
            ``annotations_trainval2017.zip``.
        out (str | Path): Folder to write.
        layout (Layout): What must be there in the end. Defaults to COCO's.
        quiet (bool): Show no progress. Defaults to False.

    Raises:
        ArchiveError: If an archive is missing, damaged, or not what was published, if the disk is
            too small, if the result is not complete, or if the annotations do not fit the images.
    """
    archives, out = Path(archives), Path(out)
    for name, parts in _by_archive(layout).items():
        archive = archives / name
        if _needed(archive, parts, out, quiet):
            with open_archive(archive) as members:
                _unpack_all(archive, members, out, quiet)
    _require_complete(layout, out, quiet)
    for part in layout.parts:
        if isinstance(part, Instances):
            if not quiet:
                print(f'checking {out / part.file}')
            check_instance_file(out / part.file, out / part.folder)


def _by_archive(layout: Layout) -> dict[str, list[Part]]:
    """The parts of COCO by the archive that holds them."""
    groups: dict[str, list[Part]] = {}
    for part in layout.parts:
        name = f'{part.folder}.zip' if isinstance(part, Files) else COCO_ANNOTATIONS
        groups.setdefault(name, []).append(part)
    return groups


def check_instance_file(path: Path, images: Path) -> None:
    """Check that COCO's annotations are complete and that their images are there.

    Args:
        path (Path): ``instances_*.json``.
        images (Path): The folder of its images.

    Raises:
        ArchiveError: Naming the file and the first entry that is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        check_instances(content, str(path))
    except ValueError as error:
        raise ArchiveError(f'{path} is no valid JSON ({error}): unpack it again.') from error
    except BadInputError as error:
        raise ArchiveError(str(error)) from error
    there = {file.name for file in images.iterdir()}
    for image in content['images']:
        if image['file_name'] not in there:
            raise ArchiveError(
                f'{path}: image {image["id"]} is {image["file_name"]}, which is not in {images}.'
            )


def prepare_ade20k(
    archives: str | Path,
    out: str | Path = ADE20K.root,
    *,
    layout: Layout = ADE20K,
    quiet: bool = False,
) -> None:
    """Unpack ADE20K into ``out/{images,annotations}/{training,validation}``.

    Run again after an interruption, it goes on.

    Args:
        archives (str | Path): Folder with ``ADEChallengeData2016.zip``.
        out (str | Path): Folder to write.
        layout (Layout): What must be there in the end. Defaults to ADE20K's.
        quiet (bool): Show no progress. Defaults to False.

    Raises:
        ArchiveError: If the archive is missing, damaged, or not what was published, if the disk is
            too small, or if the result is not complete.
    """
    out, archive = Path(out), Path(archives) / ADE20K_ARCHIVE
    if _needed(archive, layout.parts, out, quiet):
        with open_archive(archive) as members:
            _unpack_all(archive, _without_top_folder(members), out, quiet)
    _require_complete(layout, out, quiet)


def _needed(archive: Path, parts: Iterable[Part], out: Path, quiet: bool) -> bool:
    """Whether to unpack an archive, which may be missing where its parts are complete."""
    return archive.is_file() or any(part.find_fault(out, quiet) for part in parts)


def _unpack_imagenet_train(archive: Path, out: Path, part: Files, quiet: bool) -> None:
    """Unpack an archive of one archive for each class."""
    with open_archive(archive) as classes, byte_progress(quiet) as progress:
        if len(classes) != part.classes:
            raise ArchiveError(
                f'{archive} is truncated: it holds {len(classes):,} archives of classes, not '
                f'{part.classes:,}; download it again.'
            )
        folders = {
            m: out / part.folder / _class_folder(Path(m.name).stem, archive) for m in classes
        }
        require_space(out, sum(max(0, m.size - _bytes_in(folders[m])) for m in classes))
        task = progress.add_task(archive.name, total=sum(m.size for m in classes))
        for i, member in enumerate(classes):
            with open_inner_tar(member) as images:
                unpack(archive, images, folders[member], lambda n: progress.advance(task, n))
            # An archive is larger than its files.
            progress.update(task, completed=sum(m.size for m in classes[: i + 1]))


def _unpack_imagenet_val(archives: Path, out: Path, part: Files, quiet: bool) -> None:
    """Unpack images in one folder into a folder for each class."""
    archive, devkit = archives / IMAGENET_VAL, archives / IMAGENET_DEVKIT
    wnids = read_validation_classes(devkit)
    if len(wnids) != part.count:
        raise ArchiveError(
            f'{devkit} has the classes of {len(wnids):,} images, not of {part.count:,}: download '
            'it again.'
        )
    with open_archive(archive) as members:
        placed = [
            replace(m, name=f'{part.folder}/{wnids[_number(m, archive)]}/{m.name}') for m in members
        ]
        _unpack_all(archive, placed, out, quiet)


def _unpack_all(archive: Path, members: list[Member], out: Path, quiet: bool) -> None:
    """Unpack ``members`` with a progress bar, if the disk has room for those that are missing."""
    require_space(out, sum(m.size for m in members if not is_complete(out / m.name, m.size)))
    with byte_progress(quiet) as progress:
        task = progress.add_task(archive.name, total=sum(m.size for m in members))
        unpack(archive, members, out, lambda size: progress.advance(task, size))


def _without_top_folder(members: list[Member]) -> list[Member]:
    """ADE20K's archive holds one folder, which ``out`` stands for."""
    inner = ((m, m.name.partition('/')[2]) for m in members)
    return [replace(m, name=name) for m, name in inner if name]


def _class_folder(name: str, archive: Path) -> str:
    """The name, if it is a WordNet ID and no path to somewhere else."""
    if re.fullmatch(r'n\d+', name) is None:
        raise ArchiveError(
            f'{archive} holds the class {name}, which is no WordNet ID: it is not the published '
            'archive.'
        )
    return name


def _number(member: Member, archive: Path) -> int:
    """The number of a validation image of ImageNet, from 1."""
    match = re.fullmatch(r'ILSVRC2012_val_(\d{8})\.JPEG', member.name)
    if match is None:
        raise ArchiveError(
            f'{archive} holds {member.name}, which is no validation image: it is not the '
            'published archive.'
        )
    return int(match[1])


def _member_named(members: list[Member], name: str, archive: Path) -> Member:
    for member in members:
        if member.name.endswith(name):
            return member
    raise ArchiveError(f'{archive} does not hold {name}: it is not the published archive.')


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir()) if folder.is_dir() else 0


def _require_complete(layout: Layout, out: Path, quiet: bool) -> None:
    faults = layout.find_faults(out, quiet)
    if faults:
        raise ArchiveError(f'{out} is not a complete {layout.name}: {"; ".join(faults)}.')
    if not quiet:
        print(f'{out} is complete: {layout.contents}')
