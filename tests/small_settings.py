# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Mini configs with other values for their variables, and the settings that differ."""

import inspect
import re
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

MINI = Path(__file__).resolve().parents[1] / 'configs/mini'
_SETTINGS = {*inspect.signature(Runner).parameters, 'tta_model', 'tta_pipeline'}


def small_config(config, **variables):
    """A mini config as if its file assigned other values.

    Args:
        config (str | Path): Its name.
        variables: What it assigns. With ``num_workers=0``, workers are not persistent either.

    Returns:
        Config: The config.
    """
    text = _path(config).read_text().replace("_base_ = '../", f"_base_ = '{MINI.parent}/")
    for name, value in variables.items():
        line = f'{name} = {value!r}'
        text, count = re.subn(rf'^{name} = .*', lambda _, line=line: line, text, flags=re.M)
        assert count == 1, name
    cfg = Config.fromstring(text, '.py')
    if variables.get('num_workers') == 0:
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader'].persistent_workers = False
    return cfg


def settings(config, **variables):
    """The settings in which :func:`small_config` differs from the mini config itself.

    Returns:
        list[str]: As for ``--cfg-options``.
    """
    before = Config.fromfile(_path(config)).to_dict()
    after = small_config(config, **variables).to_dict()
    places = [name for name in after if name in _SETTINGS]
    return [option for name in places for option in _changes(before[name], after[name], name)]


def _path(config):
    return MINI / f'{Path(config).name.removesuffix(".py")}.py'


def _changes(before, after, place):
    if isinstance(after, dict):
        keys = list(after)
    elif isinstance(after, list) and any(isinstance(item, (dict, list)) for item in after):
        keys = range(len(after))
    else:
        return [f'{place}={after}'] if before != after else []
    return [c for key in keys for c in _changes(before[key], after[key], f'{place}.{key}')]
