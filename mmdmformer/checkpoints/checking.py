# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checking checkpoints: that a file is intact, and that it contains every tensor of a model."""

import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log
from mmengine.runner import load_checkpoint
from torch import nn

from ..compat.checkpoint import CheckpointError, weights_only


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
    damage = find_damage(path)
    if damage is not None:
        raise CheckpointError(
            f"checkpoint '{path}' is damaged ({damage}): restore it, or use an older one."
        )


def find_damage(path: Path) -> str | None:
    """What is wrong with a file of ``torch.save``, in words; None if it is intact."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # a damaged header fails in many ways
        reason = ' '.join(str(error).split()) or 'no reason given'
        return f'{type(error).__name__}: {reason}'
    return None if broken is None else f'the checksum of {broken} is wrong'


@contextmanager
def complete_weights(model: nn.Module, checkpoint: str) -> Iterator[None]:
    """Raise an error unless what is loaded inside gives every tensor of a model.

    To be used around a strict loading by mmengine, which by itself would also
    refuse tensors that the model has no use for; these are listed in the log.

    Args:
        model (nn.Module): The model that is loaded, without wrappers.
        checkpoint (str): File or URL to name.

    Yields:
        None.

    Raises:
        CheckpointError: If the checkpoint lacks a tensor of the model or has
            it in another shape.
    """

    def allow_surplus(_, keys) -> None:
        surplus = keys.unexpected_keys
        if surplus:
            print_log(
                f'{checkpoint} has more than the model: {_shorten(", ".join(surplus))}.',
                logger='current',
                level=logging.WARNING,
            )
            surplus.clear()

    handle = model.register_load_state_dict_post_hook(allow_surplus)
    try:
        yield
    except CheckpointError:
        raise
    except RuntimeError as error:
        reasons = '; '.join(line.strip() for line in str(error).splitlines()[1:] if line.strip())
        raise CheckpointError(
            f'{checkpoint} does not fit the model of the config ({_shorten(reasons)}): take the '
            'config that the checkpoint was trained with.'
        ) from error
    finally:
        handle.remove()


def load_complete(model: nn.Module, checkpoint: str) -> dict:
    """Load every tensor of a model from a checkpoint.

    Args:
        model (nn.Module): The model, without wrappers, on the CPU.
        checkpoint (str): File or URL.

    Returns:
        dict: The checkpoint's content.

    Raises:
        CheckpointError: If it cannot be read, or does not fit the model.
    """
    with complete_weights(model, checkpoint), weights_only(checkpoint):
        return load_checkpoint(model, checkpoint, map_location='cpu', strict=True, logger='silent')


def _shorten(text: str, limit: int = 500) -> str:
    return text if len(text) <= limit else f'{text[:limit]} ...'
