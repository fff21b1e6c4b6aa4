# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The checkpoints in a work directory, and the newest intact one to resume from."""

import logging
import re
from pathlib import Path

from mmengine.logging import print_log

from ..compat.checkpoint import CheckpointError
from .checking import find_damage
from .writing import DurableLocalBackend

_POINTER = 'last_checkpoint'  # mmengine's file with the path of the newest checkpoint
_NUMBERED = r'{}_\d+(_iter_\d+)?\.pth'


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
        damage = find_damage(path)
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
        f'{candidates[0].name} on): restore one, or start anew in an empty work directory.'
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
    # mmengine's names, or those of the hook's filename_tmpl as the pointer has one
    stem = named and re.match(r'(.*?)_\d+(_iter_\d+)?\.pth$', named.name)
    pattern = _NUMBERED.format(re.escape(stem[1]) if stem else '(epoch|iter)')
    found = [p for p in folder.glob('*.pth') if re.fullmatch(pattern, p.name)]
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
