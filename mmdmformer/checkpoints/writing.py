# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Writing checkpoints as .pth or .safetensors, atomically."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.fileio import LocalBackend, register_backend

from . import safetensors_file

SUFFIXES = '.pth', safetensors_file.SUFFIX


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


def write_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
    """Write a checkpoint in the format that its name's end says.

    Args:
        content (Mapping): ``state_dict`` and what else it holds; a
            .safetensors file takes ``meta`` beside it, as JSON.
        path (str | Path): A name that ends in .pth or .safetensors.

    Raises:
        ValueError: If it ends otherwise, or .safetensors cannot hold all
            tensors.
        CheckpointError: If safetensors is needed and not installed.
    """
    DurableLocalBackend().put(serialize(content, Path(path).suffix), path)


def serialize(content: Mapping[str, Any], suffix: str) -> bytes:
    """Turn a checkpoint into a file's bytes.

    Args:
        content (Mapping): As of :func:`write_checkpoint`.
        suffix (str): ``'.pth'`` or ``'.safetensors'``.

    Returns:
        bytes: The same for the same content.

    Raises:
        ValueError: As :func:`write_checkpoint`.
    """
    if suffix not in SUFFIXES:
        raise ValueError(f'a checkpoint ends in {" or ".join(SUFFIXES)}, not in {suffix!r}.')
    if suffix == '.pth':
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        return buffer.getvalue()
    averages = [key for key in content if key.endswith('_ema') or key.startswith('ema_')]
    if averages:
        raise ValueError(
            f'a .safetensors file holds one set of weights, and this checkpoint has '
            f'{", ".join(averages)} as well: write a .pth.'
        )
    return safetensors_file.to_bytes(content)
