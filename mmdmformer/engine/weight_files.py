# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Writing checkpoints as .pth or .safetensors."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..compat import safetensors_file
from .checkpoints import DurableLocalBackend

SUFFIXES = '.pth', safetensors_file.SUFFIX


def save_checkpoint(content: Mapping[str, Any], path: str | Path) -> None:
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
    DurableLocalBackend().put(serialise(content, Path(path).suffix), path)


def serialise(content: Mapping[str, Any], suffix: str) -> bytes:
    """Turn a checkpoint into a file's bytes.

    Args:
        content (Mapping): As of :func:`save_checkpoint`.
        suffix (str): ``'.pth'`` or ``'.safetensors'``.

    Returns:
        bytes: The same for the same content.

    Raises:
        ValueError: As :func:`save_checkpoint`.
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
    return safetensors_file.dumps(content)
