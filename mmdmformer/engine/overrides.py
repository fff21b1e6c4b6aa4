# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""``--cfg-options``: changes of a config's settings, merged by mmengine.

A setting is what the runner, a hook or a tool reads: ``optim_wrapper.optimizer.lr``. A config file
also assigns variables, ``lr = 1e-4``, which only the file itself reads. To change one afterwards
changes nothing, so that is refused, with the names of the settings that hold its value.
"""

import argparse
import difflib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import Runner

from .errors import UsageError

# Whose classes an option may name; others belong into a config file.
_PACKAGES = ('mmdmformer', 'mmengine', 'mmcv', 'mmdet', 'mmpretrain', 'mmseg')
_READ_BY_TOOLS = {'runner_type', 'tta_model', 'tta_pipeline'}
_READ_BY_CONFIG = {'custom_imports', 'default_scope'}
_ALMOST = 0.885  # the ratio of test_pipeline, a common variable, to tta_pipeline is 0.88
_READING = re.compile(r'\b(?:self|runner)\.cfg(?:\.get\(|\.|\[)[\'"]?(\w+)')
_NUM_NAMED = 8  # settings in a message


class CfgOptions(DictAction):
    """mmengine's ``--cfg-options``, with an error that names an unreadable option.

    mmengine imports whatever a ``type`` names by its path, ``os.system`` not excepted, and calls it
    with the settings beside it; and it expands a ``{{ template }}`` when the config that a run
    dumps is read. So an option can name registered classes and the toolboxes' only, and has none.

    Examples:
        >>> parser = argparse.ArgumentParser()
        >>> _ = parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
        >>> options = ['--cfg-options', 'optim_wrapper.optimizer.lr=1e-4']
        >>> parser.parse_args(options).cfg_options
        {'optim_wrapper.optimizer.lr': 0.0001}
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
            key = value.partition('=')[0]
            if '{{' in value:
                raise argparse.ArgumentError(
                    self, f'{value!r} has a template, {{{{: put it into a config file'
                )
            if key.rpartition('.')[2] == 'type' and _is_foreign(getattr(namespace, self.dest)[key]):
                raise argparse.ArgumentError(
                    self,
                    f'{value!r} names code outside of the toolboxes: put it into a config file, or '
                    'register the class and give its name alone',
                )


def check_names(cfg: Config, path: str | Path) -> None:
    """Refuse a setting at the top of a config whose name is almost that of one that is read.

    mmengine takes any other name for a variable of the file. A variable occurs in it twice.

    Args:
        cfg (Config): The config.
        path (str | Path): Its file.

    Raises:
        UsageError: If there is one.
    """
    names = _names_of_settings(cfg) | _READ_BY_CONFIG | {'launcher'}
    for name in cfg:
        close = difflib.get_close_matches(name, names, n=1, cutoff=_ALMOST)
        occurs = len(re.findall(rf'\b{re.escape(name)}\b', cfg.text))
        if close and close[0] != name and occurs == 1 and name not in _read_by_hooks(cfg):
            raise UsageError(
                f'{name} of {path} is read by nobody, nor used in the file: did you mean '
                f'{close[0]}?'
            )


def _is_foreign(name: Any) -> bool:
    return not isinstance(name, str) or '.' in name and name.split('.')[0] not in _PACKAGES


def merge_options(cfg: Config, options: Mapping[str, Any], path: str | Path) -> None:
    """Merge options into a config.

    Args:
        cfg (Config): Changed in place.
        options (Mapping): Settings by their dotted names, and their values.
        path (str | Path): The config file.

    Raises:
        UsageError: If an option does not fit the config, or would change nothing.
    """
    for key, value in options.items():
        _require_effect(cfg, key, path)
        old = value_at(cfg, key)
        if isinstance(value, list) and isinstance(old, str) and '/' in old:
            raise UsageError(
                f'--cfg-options {key} is a list, {value}, because of its comma, and a path in '
                f'{path}: put a path with a comma into a config file.'
            )
    try:
        cfg.merge_from_dict(dict(options))
    except (AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f'--cfg-options {", ".join(options)} do not fit {path}: {error.args[0]}'
        ) from error


def _require_effect(cfg: Config, key: str, path: str | Path) -> None:
    """Raise unless something reads what ``key`` is in."""
    name = key.partition('.')[0]
    names = _names_of_settings(cfg)
    if name in names or name in _read_by_hooks(cfg):
        return
    if name == 'launcher':
        fix = 'use --launcher.'
    elif name not in cfg:
        close = difflib.get_close_matches(name, names, n=1)
        fix = f'did you mean {close[0]}?' if close else 'check the name.'
    else:
        places = _settings_that_hold(cfg, key, names)
        fix = 'change it in a config file.'
        if places:
            more = ', ...' if len(places) > _NUM_NAMED else ''
            fix = f'set {", ".join(places[:_NUM_NAMED])}{more}.'
    raise UsageError(
        f'--cfg-options {key} would change nothing, as {name} is read by nobody after {path} has '
        f'been read: {fix}'
    )


def _names_of_settings(cfg: Config) -> set[str]:
    """What the runner and our tools read at the top of a config."""
    runner = RUNNERS.get(cfg.get('runner_type') or 'Runner') or Runner
    names = {*inspect.signature(runner).parameters, *_read_in_module(runner), *_READ_BY_TOOLS}
    return names - {'cfg', 'launcher'}


def _read_by_hooks(cfg: Config) -> set[str]:
    """What a config's hooks read at the top of it."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or ())]
    names = set()
    with HOOKS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
        for hook in hooks:
            kind = hook.get('type') if isinstance(hook, dict) else type(hook)
            names |= _read_in_module(registry.get(kind) if isinstance(kind, str) else kind)
    return names


def _read_in_module(kind: type | None) -> set[str]:
    """Names that the module of a class reads in the runner's config."""
    module = sys.modules.get(getattr(kind, '__module__', ''))
    return set(_READING.findall(inspect.getsource(module))) - {*dir(Config)} if module else set()


def _settings_that_hold(cfg: Config, key: str, names: set[str]) -> list[str]:
    """The settings that hold what a variable, or an item of one, holds."""
    parts = key.split('.')
    # Under which names the file, or one of its bases, puts the variable.
    keys = {*re.findall(rf'(\w+)\s*=[^,=\n]*\b{re.escape(parts[0])}\b', cfg.text)}
    settings = [each for name in cfg if name in names for each in settings_below(cfg[name], name)]
    for length in range(1, len(parts) + 1):
        value = value_at(cfg, '.'.join(parts[:length]))
        found = [place for place, other in settings if _holds(other, value)]
        named = [p for p in found if p.rpartition('.')[2] in keys | {parts[length - 1]}]
        if named or (found and not isinstance(value, (int, float, type(None)))):
            return ['.'.join([place, *parts[length:]]) for place in named or found]
    return []


def settings_below(node: Any, place: str = '') -> Iterator[tuple[str, Any]]:
    """Every setting at or below a part of a config.

    Args:
        node (Any): The part.
        place (str): Its dotted place. Defaults to ``''``, the whole config.

    Yields:
        tuple[str, Any]: A dotted place, and the value there.

    Examples:
        >>> list(settings_below(dict(lr=1), 'optimizer'))
        [('optimizer', {'lr': 1}), ('optimizer.lr', 1)]
    """
    yield place, node
    children = node.items() if isinstance(node, dict) else ()
    for name, child in enumerate(node) if isinstance(node, (list, tuple)) else children:
        yield from settings_below(child, f'{place}.{name}' if place else f'{name}')


def _holds(setting: Any, value: Any) -> bool:
    """Whether a setting is a value or, where that is a folder, a path in it."""
    if isinstance(setting, str) and isinstance(value, str):
        return value != '' and f'{setting}/'.startswith(f'{value.rstrip("/")}/')
    return repr(setting) == repr(value)


def value_at(cfg: Config, key: str) -> Any:
    """The value at a dotted place of a config; None where there is none."""
    value: Any = cfg
    for part in key.split('.'):
        if isinstance(value, (list, tuple)) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, (dict, Config)):
            value = value.get(part)
        else:
            return None
    return value
