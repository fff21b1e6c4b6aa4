# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Missing data, and the commands that prepare them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .bad_input import BadInputError
from .layouts import MINI, layout_of


@contextmanager
def missing_data_named(cfg: Config, *splits: str) -> Iterator[None]:
    """Turn a file that is not found into a :class:`BadInputError` if it belongs to the data.

    Whether a missing folder is a mistake is known only when a file in it is opened, as some data
    sets download themselves.

    Args:
        cfg (Config): The config in use.
        splits (str): Which dataloaders are in use: ``'train'``, ``'val'``, ``'test'``.
    """
    try:
        yield
    except FileNotFoundError as error:
        loaders = [cfg.get(f'{split}_dataloader') for split in splits]
        datasets = [d for d in with_data_root(loaders) if '://' not in d['data_root']]
        for dataset in datasets:
            if not Path(dataset['data_root']).is_dir():
                raise BadInputError(missing_data(dataset)) from error
        name = Path(str(error.filename or '')).absolute()
        for dataset in datasets:
            if Path(dataset['data_root']).absolute() in name.parents:
                raise BadInputError(missing_data(dataset, name)) from error
        raise


def with_data_root(node: Any) -> Iterator[dict]:
    """Yield every data set that has a ``data_root``, at or below a part of a config."""
    if isinstance(node, dict):
        if node.get('data_root'):
            yield node
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for child in node:
        yield from with_data_root(child)


def missing_data(dataset: dict, name: Path | None = None) -> str:
    """Say that data are missing, and which command prepares them.

    Args:
        dataset (dict): The data set's settings, with ``data_root``.
        name (Path, optional): What is missing. Defaults to the whole folder.

    Returns:
        str: One sentence.
    """
    root = Path(dataset['data_root']).absolute()
    what = f'data directory {root} does not exist' if name is None else f'{name} does not exist'
    found = layout_of(dataset)
    if found is None:
        return f'{what}: put or link the data set there, or change data_root in the config.'
    layout, folder = found
    command = layout.command(folder)
    if layout is MINI:
        return f'{what}: run `{command}` in this directory.'
    return f'{what}: make it with `{command}`, link it there, or change data_root in the config.'
