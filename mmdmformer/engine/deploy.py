# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Converting checkpoints to the folded form of their backbones."""

from pathlib import Path

from mmengine.config import Config
from mmengine.runner import save_checkpoint

from .complete_weights import load_complete
from .model import build_model


def fold_checkpoint(cfg: Config, checkpoint: str, out: str | Path) -> None:
    """Write a checkpoint with the backbone's norms folded.

    Only weights are kept, no state of an optimiser. The config reads it with
    ``model.backbone.deploy=True``.

    Args:
        cfg (Config): Config of the model, of any toolbox.
        checkpoint (str): Checkpoint of the plain model.
        out (str | Path): File to write.

    Raises:
        CheckpointError: If the checkpoint does not fit the model.
        ValueError: If the backbone has no folded form, or cannot be folded.
    """
    model = build_model(cfg).eval()
    backbone = getattr(model, 'backbone', None)
    if not hasattr(backbone, 'switch_to_deploy'):
        raise ValueError(
            f'{cfg.filename} has no backbone with a folded form: give the config of a DMFormer.'
        )
    if backbone.deploy:
        raise ValueError(
            f'{cfg.filename} builds a backbone that is folded already: leave deploy out.'
        )
    content = load_complete(model, checkpoint)
    backbone.switch_to_deploy()
    meta = content.get('meta', {}) if isinstance(content, dict) else {}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(dict(meta=dict(meta), state_dict=model.state_dict()), str(out))
