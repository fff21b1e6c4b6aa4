# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Converting checkpoints: to other names, and to the folded form of their backbones."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from .backbones import find_backbones
from .checking import load_complete
from .reading import read_checkpoint
from .writing import write_checkpoint


def convert_checkpoint(
    source: str | Path, out: str | Path, rename: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Write a checkpoint under other names.

    Args:
        source (str | Path): File or URL.
        out (str | Path): File to write, .pth or .safetensors.
        rename (Callable): What makes the new content of the old one, such as
            :func:`~mmdmformer.checkpoints.timm_names.exchange_names` and
            :func:`~mmdmformer.checkpoints.swin_acmix.from_authors`.

    Returns:
        dict: What was written.

    Raises:
        CheckpointError: If the source cannot be read.
        ValueError: If ``rename`` does not know its names, or ``out`` cannot hold it.
    """
    converted = rename(read_checkpoint(source))
    write_checkpoint(converted, out)
    return converted


def fold_checkpoint(model: nn.Module, checkpoint: str, out: str | Path) -> None:
    """Write a checkpoint with the norms of the backbones folded, wherever these are in the model.

    Only weights are kept, no state of an optimizer. The config reads it with ``deploy=True`` of
    the backbone.

    Args:
        model (nn.Module): Model of any toolbox, as its config builds it; it is folded with the
            weights of the checkpoint.
        checkpoint (str): Checkpoint of the plain model.
        out (str | Path): File to write, .pth or .safetensors.

    Raises:
        CheckpointError: If the checkpoint does not fit the model.
        ValueError: If the backbone has no folded form, or cannot be folded.
    """
    model.eval()
    backbones: list[Any] = list(find_backbones(model, 'switch_to_deploy').values())
    if not backbones:
        found = ', '.join(type(part).__name__ for part in find_backbones(model).values())
        raise ValueError(
            f'a {type(model).__name__} with {found or "no backbone"} has no folded form: give the '
            'config of a DMFormer.'
        )
    for backbone in backbones:
        if backbone.deploy:
            raise ValueError(
                f'the {type(backbone).__name__} of this config is folded already: leave deploy out.'
            )
    content = load_complete(model, checkpoint)
    for backbone in backbones:
        backbone.switch_to_deploy()
    meta = content.get('meta', {}) if isinstance(content, dict) else {}
    write_checkpoint(dict(meta=dict(meta), state_dict=model.state_dict()), out)
