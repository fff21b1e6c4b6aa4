# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints that appear only when they are complete, and are checked when they are read."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ..compat.checkpoint import CheckpointError

_POINTER = 'last_checkpoint'  # mmengine's file with the path of the newest checkpoint
_NUMBERED = re.compile(r'(epoch|iter)_\d+(_iter_\d+)?\.pth')


class DurableLocalBackend(LocalBackend):
    """mmengine's local files, but a file has its old content until the new one is on the disk."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes.

        Args:
            obj (bytes): The content.
            filepath (str | Path): The file; its folder is made if need be.

        Raises:
            OSError: If the disk does not take it; an older file of the name is then unharmed.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f'.{path.name}.partial')
        try:
            with partial.open('wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name as well
        finally:
            os.close(folder)


register_backend(DurableLocalBackend.__name__, DurableLocalBackend)


class _KeepsFiles:
    """A file backend that remembers what is to be removed, instead of removing it."""

    def __init__(self, backend: LocalBackend) -> None:
        self.backend = backend
        self.outdated: list[str] = []

    def __getattr__(self, name: str):
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.outdated.append(path)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's hook, but no moment of a crash or of a full disk costs a checkpoint.

    A local checkpoint is written under another name first, and an old one is removed only when the
    new one is safe. Arguments are those of mmengine's hook.
    """

    def before_train(self, runner) -> None:
        """Choose where to write to."""
        chosen = self.backend_args is not None or self.file_client_args is not None
        if not chosen and '://' not in str(self.out_dir or runner.work_dir):
            self.backend_args = dict(backend=DurableLocalBackend.__name__)
        super().before_train(runner)

    def save_interrupted(self, runner, epoch: int, iteration: int) -> str:
        """Save what a run that is about to end needs to go on.

        Args:
            runner (Runner): The run.
            epoch (int): Number of epochs that are complete.
            iteration (int): Number of iterations that are done.

        Returns:
            str: The checkpoint.
        """
        step = f'{epoch}_iter_{iteration}' if self.by_epoch else iteration
        meta = dict(epoch=epoch, iter=iteration)
        self._save_checkpoint_with_step(runner, step, meta=meta)
        return self.last_ckpt

    def _save_checkpoint_with_step(self, runner, step: int | str, meta: dict) -> None:
        with self._removing_later():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        with self._removing_later():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_later(self) -> Iterator[None]:
        if isinstance(self.file_backend, _KeepsFiles):  # saving the best saves the last as well
            yield
            return
        backend = self.file_backend
        self.file_backend = keeper = _KeepsFiles(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        for path in set(keeper.outdated) - self._current():
            if backend.isfile(path):
                backend.remove(path)

    def _current(self) -> set[str]:
        """The files that have just been written, which may have replaced others of their name."""
        best = [getattr(self, 'best_ckpt_path', None)]
        best += getattr(self, 'best_ckpt_path_dict', {}).values()
        return {self.last_ckpt, *best}


def check_intact(path: str | Path) -> None:
    """Compare a local checkpoint with the checksums that ``torch.save`` put into it.

    Args:
        path (str | Path): The checkpoint; one in torch's oldest format, which has no checksums, and
            an address are left to the loader.

    Raises:
        CheckpointError: If the file is damaged.
    """
    path = Path(path)
    with path.open('rb') as file:
        if file.read(2) not in (b'PK', b''):
            return
    damage = _damage(path)
    if damage is not None:
        raise CheckpointError(
            f"checkpoint '{path}' is damaged ({damage}): restore it, or use an older one."
        )


def _damage(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # a damaged header fails in many ways
        reason = ' '.join(str(error).split()) or 'no reason given'
        return f'{type(error).__name__}: {reason}'
    return None if broken is None else f'the checksum of {broken} is wrong'


def find_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest intact checkpoint of a run.

    That is the one that the file ``last_checkpoint`` names, or a newer one if the run ended before
    it could name it. Where it is damaged, the ones before it are tried, with a warning.

    Args:
        work_dir (str | Path): The run's folder.

    Returns:
        Path | None: The checkpoint; None if the folder has none.

    Raises:
        CheckpointError: If there are checkpoints, but no intact one.
    """
    candidates = _candidates(Path(work_dir))
    for path in candidates:
        damage = _damage(path)
        if damage is None:
            return path
        print_log(
            f'Checkpoint {path} is damaged ({damage}): trying the one before.',
            logger='current',
            level=logging.WARNING,
        )
    if not candidates:
        return None
    raise CheckpointError(
        f'no checkpoint in {candidates[0].parent} is intact ({len(candidates)} tried, from '
        f'{candidates[0].name} on): restore one, or start anew in an empty work folder.'
    )


def point_to(work_dir: str | Path, path: Path) -> None:
    """Let ``last_checkpoint`` name a checkpoint, as a run may have ended before it could.

    Args:
        work_dir (str | Path): The run's folder.
        path (Path): The checkpoint that it goes on from.
    """
    pointer = Path(work_dir, _POINTER)
    if not pointer.is_file() or pointer.read_text() != str(path):
        DurableLocalBackend().put(str(path).encode(), pointer)


def _candidates(work_dir: Path) -> list[Path]:
    """Checkpoints of a run's folder, the newest first."""
    pointer = work_dir / _POINTER
    # A run that ended at that very moment leaves it empty.
    named = Path(pointer.read_text().strip() or '.') if pointer.is_file() else None
    if named is not None and not named.is_file():
        named = work_dir / named.name  # the folder has been moved
    folder = named.parent if named is not None and named.is_file() else work_dir
    found = [p for p in folder.glob('*.pth') if _NUMBERED.fullmatch(p.name)]
    found.sort(key=_progress, reverse=True)
    if named is None or not named.is_file():
        return found
    # A file that is further, but older, belongs to an earlier run in this folder.
    age, progress = named.stat().st_mtime_ns, _progress(named)
    newer = [p for p in found if _progress(p) > progress and p.stat().st_mtime_ns >= age]
    return [*newer, named, *(p for p in found if _progress(p) < progress)]


def _progress(path: Path) -> tuple[int, ...]:
    """How far a checkpoint is, by its name.

    Examples:
        >>> _progress(Path('epoch_2.pth')) < _progress(Path('epoch_2_iter_31.pth'))
        True
    """
    return tuple(int(number) for number in re.findall(r'\d+', path.stem))
