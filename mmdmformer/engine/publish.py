# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints as others shall have them: weights alone, with a hash in the name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from .checkpoints import DurableLocalBackend
from .pretrained import find_weights
from .weight_files import SUFFIXES, serialise

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
    content = CheckpointLoader.load_checkpoint(source, 'cpu', 'silent')
    published = dict(meta=_meta(content), state_dict=choose_weights(content, ema))
    files = {}
    for suffix in SUFFIXES:
        data = serialise(published, suffix)
        digest = hashlib.sha256(data).hexdigest()[:_HASH_LENGTH]
        files[out.with_name(f'{out.name}-{digest}{suffix}')] = data
    for path in files:
        if path.exists() and path.resolve() == Path(source).resolve():
            raise ValueError(f'{source} is what publishing it would write: choose another name.')
    for path, data in files.items():
        DurableLocalBackend().put(data, path)
    return list(files)


def choose_weights(content: Mapping[str, Any], ema: bool | None) -> dict[str, Tensor]:
    """Pick the plain or the averaged weights of a checkpoint of mmengine or timm.

    Args:
        content (Mapping): The checkpoint's content.
        ema (bool, optional): Whether to take the averaged ones.

    Returns:
        dict[str, Tensor]: The weights.

    Raises:
        ValueError: If they are not there, or there are both and ``ema`` is
            None.

    Examples:
        >>> import torch
        >>> plain, averaged = torch.tensor(1), torch.tensor(2)
        >>> timm = dict(state_dict=dict(w=plain), state_dict_ema=dict(w=averaged))
        >>> mmengine = dict(state_dict=dict(w=averaged), ema_state_dict={'module.w': plain})
        >>> [choose_weights(content, ema=False)['w'].item() for content in (timm, mmengine)]
        [1, 1]
        >>> [choose_weights(content, ema=True)['w'].item() for content in (timm, mmengine)]
        [2, 2]
    """
    weights = find_weights(content)
    if not weights:
        raise ValueError('the checkpoint has no weights.')
    swapped = content.get('ema_state_dict')  # mmengine has the plain weights here
    beside = [key for key in ('state_dict_ema', 'model_ema') if key in content]
    if swapped is None and not beside:
        if ema:
            raise ValueError('the checkpoint has no averaged weights: leave --ema out.')
        return weights
    if ema is None:
        raise ValueError(
            'the checkpoint has plain and averaged weights: say --ema for the averaged ones, '
            'or --no-ema for the plain ones.'
        )
    if ema:
        return weights
    if swapped is None:
        return find_weights({k: v for k, v in content.items() if k not in beside})
    plain = {name.removeprefix('module.'): value for name, value in swapped.items()}
    return {name: plain.get(name, value) for name, value in weights.items()}


def _meta(content: Mapping[str, Any]) -> dict[str, Any]:
    meta = content.get('meta')
    return dict(meta) if isinstance(meta, Mapping) else {}
