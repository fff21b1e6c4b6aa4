# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints as .safetensors: a header in JSON and plain tensors, which cannot contain code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.fileio import get
from torch import Tensor

from ..compat.checkpoint import CheckpointError

SUFFIX = '.safetensors'
_META = 'meta'  # the key of what mmengine's checkpoints hold beside the weights, as JSON


def to_bytes(content: Mapping[str, Any]) -> bytes:
    """Serialize a checkpoint.

    Args:
        content (Mapping): ``state_dict``, and ``meta``, of which is kept what
            JSON can express.

    Returns:
        bytes: The file's content, the same for the same checkpoint.

    Raises:
        CheckpointError: If safetensors is not installed.

    Examples:
        >>> data = to_bytes(dict(state_dict={'w': torch.ones(2)}, meta=dict(classes=('a', 'b'))))
        >>> from_bytes(data, 'x.safetensors')
        {'meta': {'classes': ['a', 'b']}, 'state_dict': {'w': tensor([1., 1.])}}
    """
    # Tensors of a file must be contiguous and must not share memory.
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in content['state_dict'].items()
    }
    # One key alone: the library writes several in an order that changes from call to call.
    metadata = {_META: json.dumps(_jsonable(content.get('meta', {})))}
    return _library('write').save(tensors, metadata)


def load_from_safetensors(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint.

    Args:
        filename (str): A file, or an address that mmengine can read from.
        map_location (str | torch.device, optional): Where to put the tensors.
            Defaults to the CPU.

    Returns:
        dict: ``meta`` and ``state_dict``, as of a .pth of mmengine.

    Raises:
        CheckpointError: If the file is damaged, or safetensors is not
            installed.
        FileNotFoundError: If there is no such file.
    """
    content = from_bytes(get(filename), filename)
    if isinstance(map_location, (str, torch.device)):
        weights = content['state_dict']
        content['state_dict'] = {k: tensor.to(map_location) for k, tensor in weights.items()}
    return content


def from_bytes(data: bytes, filename: str) -> dict[str, Any]:
    """Read a checkpoint from the bytes of a file, whose name is for errors."""
    library = _library(f'read {filename}')
    try:
        weights: dict[str, Tensor] = library.load(data)
        length = int.from_bytes(data[:8], 'little')
        metadata = json.loads(data[8 : 8 + length]).get('__metadata__', {})
        meta = json.loads(metadata.get(_META, '{}'))
    except Exception as error:
        raise CheckpointError(
            f"Cannot read checkpoint '{filename}' ({type(error).__name__}: {error}); it is "
            'truncated or no safetensors file, so fetch or save it anew.'
        ) from None
    return dict(meta=meta, state_dict=weights)


def _library(purpose: str):
    try:
        import safetensors.torch
    except ImportError:
        raise CheckpointError(
            f'safetensors is needed to {purpose} and not installed: '
            'pip install -r requirements/optional.txt, or the extra mmdmformer[optional].'
        ) from None
    return safetensors.torch


def _jsonable(value: Any) -> Any:
    """What JSON can express of a value; parts of mappings that it cannot are left out."""
    if isinstance(value, Mapping):
        pairs = {str(k): _jsonable(v) for k, v in value.items()}
        return {k: v for k, v in pairs.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    return value if isinstance(value, (str, int, float, bool)) else None
