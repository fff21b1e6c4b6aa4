# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Building a config's model outside of a runner."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import save_checkpoint, set_random_seed
from mmengine.utils import import_modules_from_strings

from ..compat.environment import TOOLBOXES


def toolbox_of(cfg: Config) -> str | None:
    """The toolbox that a config is for.

    Args:
        cfg (Config): Config of any OpenMMLab toolbox.

    Returns:
        str | None: Its ``default_scope`` or, as a pure Python config needs none, the toolbox that
        the class of its model is of.
    """
    kind = (cfg.get('model') or {}).get('type')
    package = str(getattr(kind, '__module__', kind)).partition('.')[0]
    return cfg.get('default_scope') or (package if package in TOOLBOXES else None)


def build_model(cfg: Config) -> BaseModel:
    """Build the model of a config, in the scope of its toolbox.

    Args:
        cfg (Config): Config of any OpenMMLab toolbox.

    Returns:
        BaseModel: The model, on the CPU, before ``init_weights``.
    """
    if 'custom_imports' in cfg:
        import_modules_from_strings(**cfg.custom_imports)
    with DefaultScope.overwrite_default_scope(toolbox_of(cfg)):
        init_default_scope(toolbox_of(cfg))
        return MODELS.build(cfg.model)


def save_untrained(
    config: str | Path, path: str | Path, options: Mapping[str, Any] | None = None
) -> None:
    """Save a model with initial weights, always the same ones, as a checkpoint.

    Testing it tells what training is worth.

    Args:
        config (str | Path): Config file.
        path (str | Path): Where to write the checkpoint.
        options (Mapping[str, Any], optional): Settings of the config to
            change, by their dotted names. Defaults to None.
    """
    set_random_seed(0)
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(dict(options or {}))
    model = build_model(cfg)
    with without_init_log():
        model.init_weights()
    save_checkpoint(dict(state_dict=model.state_dict()), str(path))


@contextmanager
def without_init_log() -> Iterator[None]:
    """Keep mmengine from logging two lines for each parameter that is initialized."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
