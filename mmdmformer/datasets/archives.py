# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Unpack archives of many gigabytes, and continue after an interruption.

A file gets its name only when all its bytes are there, so that a second run passes over what has
its full size and writes the rest.
"""

import errno
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_CHUNK = 1 << 20  # bytes


class ArchiveError(RuntimeError):
    """An archive that cannot be unpacked; the message is one sentence with the fix."""


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name (str): Its path in the archive.
        size (int): Bytes when unpacked.
        open (Callable): Opens it for reading.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]


@contextmanager
def open_archive(path: Path) -> Iterator[list[Member]]:
    """Open a zip or tar archive.

    Args:
        path (Path): The archive.

    Yields:
        list[Member]: Its files. Folders are left out.

    Raises:
        ArchiveError: If the file is missing, is no archive or a truncated one, there or wherever
            it is read in the ``with`` block; or if it holds a link, a device or a path out of the
            folder it is unpacked to.
    """
    if not path.is_file():
        raise ArchiveError(
            f'{path} does not exist: download it, or give the directory that contains it.'
        )
    try:
        if path.suffix == '.zip':
            with zipfile.ZipFile(path) as archive:
                yield _checked(path, _zip_members(archive))
        else:
            _require_end_of_tar(path)
            with tarfile.open(path) as archive:
                yield _checked(path, _tar_members(archive))
    except (ArchiveError, ImportError):
        raise
    except Exception as error:  # each reader has its own
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the disk
        raise ArchiveError(
            f'{path} is truncated or damaged ({error}): download it again, then run this again to '
            'go on.'
        ) from error


@contextmanager
def open_inner_tar(member: Member) -> Iterator[list[Member]]:
    """Open a tar archive that lies in another one; errors are left to the outer."""
    with member.open() as file, tarfile.open(fileobj=file, mode='r:') as archive:
        yield _checked(Path(member.name), _tar_members(archive))


def unpack(
    archive: Path,
    members: Iterable[Member],
    out: Path,
    advance: Callable[[int], object] = lambda size: None,
) -> None:
    """Write members of an archive that are not there yet with their full size.

    Args:
        archive (Path): Named in errors.
        members (Iterable[Member]): What to write; their names are paths below ``out``.
        out (Path): The folder.
        advance (Callable): Called with the size in bytes of each file that is there.

    Raises:
        ArchiveError: If a file ends early.
    """
    for member in members:
        target = out / member.name
        if not is_complete(target, member.size):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f'.{target.name}.partial')
            with member.open() as source, partial.open('wb') as file:
                shutil.copyfileobj(source, file, _CHUNK)
            if partial.stat().st_size != member.size:
                raise ArchiveError(f'{archive} is truncated in {member.name}: download it again.')
            os.replace(partial, target)
        advance(member.size)


def is_complete(path: Path, size: int) -> bool:
    """Whether ``path`` is a file of ``size`` bytes."""
    return path.is_file() and path.stat().st_size == size


def require_space(out: Path, size: int) -> None:
    """Raise :class:`ArchiveError` unless ``size`` bytes are free where ``out`` is or will be."""
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise ArchiveError(
            f'{out} needs {size / 1e9:,.1f} GB more and {free / 1e9:,.1f} GB are free: make room, '
            'or choose a directory on another disk with --out.'
        )


def byte_progress(quiet: bool) -> Progress:
    """A progress bar in bytes."""
    return Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        disable=quiet,
    )


def _zip_members(archive: zipfile.ZipFile) -> list[Member]:
    def opener(info):
        return lambda: archive.open(info)

    files = [info for info in archive.infolist() if not info.is_dir()]
    for info in files:
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise _foreign(archive.filename, info.filename)
    return [Member(info.filename, info.file_size, opener(info)) for info in files]


def _tar_members(archive: tarfile.TarFile) -> list[Member]:
    def opener(info):
        return lambda: archive.extractfile(info)

    entries = [info for info in archive if not info.isdir()]
    for info in entries:
        if not info.isreg():
            raise _foreign(str(archive.name), info.name)
    return [Member(info.name, info.size, opener(info)) for info in entries]


def _foreign(path: str | None, name: str) -> ArchiveError:
    return ArchiveError(
        f'{path} holds {name}, which is neither a file nor a directory, and was not unpacked: '
        'it is not the published archive.'
    )


def _checked(path: Path, members: list[Member]) -> list[Member]:
    """Refuse names that lead out of the directory that an archive is unpacked to."""
    for member in members:
        name = PurePosixPath(member.name)
        if name.is_absolute() or '..' in name.parts or '\\' in member.name:
            raise ArchiveError(
                f'{path} holds {member.name}, which leads out of the directory, and was not '
                'unpacked: it is not the published archive.'
            )
    return members


def _require_end_of_tar(path: Path) -> None:
    """A tar archive ends in blocks of zeros, which tarfile does not miss when they are cut off."""
    if path.suffix != '.tar':
        return  # a compressed one ends with a checksum
    with path.open('rb') as file:
        file.seek(max(0, path.stat().st_size - 2 * tarfile.BLOCKSIZE))
        if file.read() != bytes(2 * tarfile.BLOCKSIZE):
            raise tarfile.ReadError('the end of the archive is missing')
