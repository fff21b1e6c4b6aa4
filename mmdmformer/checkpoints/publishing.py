# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Publishing checkpoints: only the weights, with a hash in the file name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .reading import choose_weights, read_checkpoint
from .writing import SUFFIXES, DurableLocalBackend, serialize

_HASH_LENGTH = 8  # as torch.hub expects it, between the last '-' and the suffix


def publish(source: str, out: str | Path, ema: bool | None = None) -> list[Path]:
    """Write a checkpoint's weights as .pth and as .safetensors.

    All states of training are left out. ``meta`` (config, classes, versions)
    stays; .safetensors has of it what JSON can express.

    Args:
        source (str): File or URL of the checkpoint of a run.
        out (str | Path): Name to write, such as ``dmformer-s.pth``; the first
            8 digits of each file's SHA-256 follow the stem.
        ema (bool, optional): Whether to take the averaged weights instead of
            the plain ones. It must be said where a checkpoint has both.
            Defaults to None.

    Returns:
        list[Path]: The files.

    Raises:
        CheckpointError: If the source cannot be read, or safetensors is not
            installed.
        ValueError: If the weights are not there or the choice is missing, or
            the source would be overwritten.
    """
    out = Path(out)
    out = out.with_suffix('') if out.suffix in SUFFIXES else out
    content = read_checkpoint(source)
    published = dict(meta=_meta(content), state_dict=choose_weights(content, ema))
    files = {}
    for suffix in SUFFIXES:
        data = serialize(published, suffix)
        digest = hashlib.sha256(data).hexdigest()[:_HASH_LENGTH]
        files[out.with_name(f'{out.name}-{digest}{suffix}')] = data
    for path in files:
        if path.exists() and path.resolve() == Path(source).resolve():
            raise ValueError(f'{source} is what publishing it would write: choose another name.')
    for path, data in files.items():
        DurableLocalBackend().put(data, path)
    return list(files)


def _meta(content: Mapping[str, Any]) -> dict[str, Any]:
    meta = content.get('meta')
    return dict(meta) if isinstance(meta, Mapping) else {}
