# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Config files whose top-level variables can be changed from the command line."""

import argparse
import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config, DictAction

# Whose classes an option may name; others belong into a config file.
_PACKAGES = ('mmdmformer', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'mmseg')


class CommaList(list):
    """A list that was written without brackets, and may have been meant as text.

    Args:
        values (Sequence): The list.
        text (str): What was written.
    """

    def __init__(self, values: Sequence[Any], text: str) -> None:
        super().__init__(values)
        self.text = text


class CfgOptions(DictAction):
    """mmengine's ``--cfg-options``, which names what it cannot read instead of failing in itself.

    mmengine imports whatever a ``type`` names by its path, ``os.system`` not excepted, and calls it
    with the settings beside it. So an option can name registered classes and the toolboxes' only.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> _ = parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
        >>> parser.parse_args(['--cfg-options', 'lr=1e-4', 'scale=(64,64)']).cfg_options
        {'lr': 0.0001, 'scale': (64, 64)}
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        """Add ``KEY=VALUE`` pairs to the namespace."""
        for value in values:
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (ValueError, AssertionError, RecursionError):
                raise argparse.ArgumentError(
                    self,
                    f'{value!r} cannot be read: write KEY=VALUE, a list as KEY=1,2 or '
                    'KEY="[1,2]", and put anything with a dict into a config file',
                ) from None
            key, _, text = value.partition('=')
            read = getattr(namespace, self.dest)
            if isinstance(read[key], list) and not text.startswith('['):
                read[key] = CommaList(read[key], text)
            if key.rpartition('.')[2] == 'type' and _is_foreign(getattr(namespace, self.dest)[key]):
                raise argparse.ArgumentError(
                    self,
                    f'{value!r} names code outside of the toolboxes: put it into a config file, or '
                    'register the class and give its name alone',
                )


def _is_foreign(name: Any) -> bool:
    return not isinstance(name, str) or '.' in name and name.split('.')[0] not in _PACKAGES


def read_config(path: str | Path, variables: Mapping[str, Any]) -> Config:
    """Read a config as if its files assigned other values to their top-level variables.

    A config opens with the values people change most (``lr = 1e-4``) and uses them further down
    (``optimizer=dict(lr=lr)``). Merging ``lr`` into the config that was read, as mmengine does with
    ``--cfg-options``, would change nothing but the variable.

    Args:
        path (str | Path): The config file.
        variables (Mapping): Names and values. A name is ignored unless the file or its bases
            assign it a literal, and also in a toolbox's packaged base (``mmdet::...``), in a file
            with ``{{ }}`` templates, and in a pure Python config (``read_base``).

    Returns:
        Config: The config, under the name of the original file.
    """
    path = Path(path)
    with TemporaryDirectory() as folder:
        edited = _edit(path.absolute(), variables, Path(folder))
        if edited == path.absolute():
            return Config.fromfile(path)
        cfg = Config.fromfile(edited)
    return Config(
        cfg.to_dict(), cfg_text=cfg.text, filename=str(path), env_variables=cfg.env_variables
    )


def _edit(path: Path, variables: Mapping[str, Any], folder: Path) -> Path:
    """Write an edited copy of ``path`` and its bases into ``folder``, if there is a need for one.

    Returns:
        Path: The copy, or ``path`` itself if neither it nor its bases assign any of the variables.
    """
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    if path.suffix != '.py' or '{{' in text or 'read_base' in text:
        return path
    tree = ast.parse(text, str(path))
    changed = False
    for name, statement in _assignments(tree):
        if name == '_base_':
            bases = ast.literal_eval(statement.value)
            bases = [bases] if isinstance(bases, str) else bases
            edited = [
                base if '::' in base else str(_edit(path.parent / base, variables, folder))
                for base in bases
            ]
            changed |= any(Path(base).is_relative_to(folder) for base in edited)
            statement.value = _literal(edited)
        elif name in variables and _is_literal(statement.value):
            statement.value = _literal(variables[name])
            changed = True
    if not changed:
        return path
    copy = folder / str(len(list(folder.iterdir()))) / path.name
    copy.parent.mkdir()
    # A value must not become a template, whose content mmengine would write into the code.
    copy.write_text(ast.unparse(tree).replace('{{', '{\\x7b'), encoding='utf-8')
    return copy


def _assignments(tree: ast.Module) -> list[tuple[str, ast.Assign]]:
    """The top-level statements ``name = ...``."""
    return [
        (statement.targets[0].id, statement)
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    ]


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _literal(value: Any) -> ast.expr:
    return _NumberNames().visit(ast.parse(repr(value), mode='eval').body)


class _NumberNames(ast.NodeTransformer):
    """Replaces the names that ``repr`` has for infinity and NaN."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.parse(f'float({node.id!r})', mode='eval').body
