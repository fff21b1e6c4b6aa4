# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Finding the setting of a config that causes an error, and what was probably meant.

Registries build whatever a config names, and what does not fit fails deep inside of them. The
traceback knows more than the message: which config was read, which part of it was being built or
run, and in which registry.
"""

from __future__ import annotations

import difflib
import inspect
import linecache
import math
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import mmengine.registry.root as root_registries
import torch
from mmengine.config import Config
from mmengine.registry import Registry

from ..registry import TOKEN_MIXERS, did_you_mean, type_name
from .model import toolbox_of
from .overrides import settings_below

_LENGTH = 300  # characters of a cause
_SOURCES = 'data_root', 'data_prefix', 'ann_file', 'metainfo', 'filter_cfg'
_NO_MISTAKE = torch.OutOfMemoryError, torch.multiprocessing.ProcessExitedException


class ConfigFault:
    """An error, and the config that it was raised for.

    Args:
        error (BaseException): As it was caught, with its traceback.

    Attributes:
        is_certain (bool): Whether the sentence says all; else the traceback tells more.
    """

    is_certain = True

    def __init__(self, error: BaseException) -> None:
        self.frames: list[FrameType] = []
        while True:
            self.frames += [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            inner = error.__cause__ or error.__context__
            # A runner repeats what a hook raises, with the hook's name behind it.
            if inner is None or not (error.__cause__ or str(inner) in str(error)):
                break
            error = inner
        self.error = error
        self.message = ' '.join(map(str, error.args)) if isinstance(error, KeyError) else str(error)
        self.cfg: Any = next(self._locals_of(Config), None)
        self.settings: dict[str, Any] = {}
        self.place = ''
        if self.cfg is not None:
            self.settings = dict(settings_below(self.cfg._cfg_dict))
            for frame in self.frames:
                self.place = self._place_of(frame) or self.place

    def explain(self) -> str | None:
        """One sentence with the value, its place and what was probably meant.

        Returns:
            str | None: None where the error is no mistake in a config.
        """
        if self.cfg is None or isinstance(self.error, _NO_MISTAKE):
            return None
        return (
            self._incomplete_loop()
            or self._no_images()
            or self._unknown_argument()
            or self._missing_file()
            or self._missing_package()
            or self._unknown_type()
            or self._other_channels()
            or self._refused()
        )

    def _locals_of(self, kind: type) -> Iterator[Any]:
        values = (value for frame in self.frames for value in frame.f_locals.values())
        return (value for value in values if isinstance(value, kind))

    def _place_of(self, frame: FrameType) -> str | None:
        """The setting that a function builds, or that its object was built from."""
        code = frame.f_code
        arguments = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]]
        found: list[str] = []
        if code.co_name.startswith(('build', '_build', 'initialize')):
            parts = [value for value in arguments if isinstance(value, dict) and value]
            found = [place for part in parts[:1] for place in self._places_like(part)]
        elif code.co_varnames[:1] == ('self',) and arguments:
            name = type(arguments[0]).__name__
            found = [
                place
                for place, value in self.settings.items()
                if isinstance(value, dict) and type_name(value.get('type', '')) == name
            ]
        return min(found, key=lambda place: not _is_below(place, self.place), default=None)

    def _places_like(self, part: dict) -> list[str]:
        """Where the config has most of a part; builders take from it and add to it."""
        counts = {
            place: sum(key in part and part[key] == value[key] for key in value)
            for place, value in self.settings.items()
            if isinstance(value, dict)
            and value.get('type') == part.get('type')
            and ('type' in part or value == part)
        }
        most = max(counts.values(), default=0)
        return [place for place, count in counts.items() if count == most]

    def _below(self) -> Iterator[tuple[str, Any]]:
        """The settings at and below the place, and all others after them."""
        return iter(sorted(self.settings.items(), key=lambda s: not _is_below(s[0], self.place)))

    def _incomplete_loop(self) -> str | None:
        found = re.match(r'(.*) should be either all None or not None', self.message, re.S)
        if found is None:
            return None
        names = re.findall(r'\w+_\w+', found[1])
        missing = [name for name in names if self.cfg.get(name) is None]
        return (
            f'{" and ".join(missing)} {"is" if len(missing) == 1 else "are"} missing in the '
            f'config, and {" and ".join(n for n in names if n not in missing)} given: give all of '
            'them, or none.'
        )

    def _no_images(self) -> str | None:
        """A data set that found nothing, which mmengine puts together for its workers."""
        last = self.frames[-1]
        dataset: Any = last.f_locals.get('self')
        if last.f_code.co_name != '_serialize_data' or dataset.data_list or not self.place:
            return None
        part = self.settings[self.place]
        shown = ', '.join(f'{k}={part[k]!r}' for k in part if k.endswith('suffix') or k in _SOURCES)
        return (
            f'{self.place} finds no image with {shown}: correct the names of files and '
            'directories, endings and classes.'
        )

    def _unknown_argument(self) -> str | None:
        found = re.search(r"got an unexpected keyword argument '(\w+)'", self.message)
        if found is None:
            return None
        name, owner = found[1], self.message.split('.__init__')[0].split('(')[0]
        place = next((p for p, _ in self._below() if p.rpartition('.')[2] == name), None)
        if place is None:
            return None
        names = set()
        for value in (*self.frames[-1].f_locals.values(), self.frames[-1].f_globals.get(owner)):
            kind = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
            if kind.__name__ == owner or self.frames[-1].f_locals.get('self') is value:
                names |= _arguments(kind)
        return f'{self._show(place)} is no argument of {owner}: {did_you_mean(name, names)}'

    def _missing_file(self) -> str | None:
        if not isinstance(self.error, FileNotFoundError):
            return None
        text = f'{self.message} {self.error.filename}'
        for place, value in self._below():
            if isinstance(value, (str, Path)) and str(value) and str(value) in text:
                path = Path(value)
                beside = [p.name for p in path.parent.glob('*')] if path.name else []
                close = difflib.get_close_matches(path.name, beside, n=1)
                fix = f'did you mean {close[0]}?' if close else 'check the path.'
                return f'{self._show(place)} does not exist: {fix}'
        return None

    def _missing_package(self) -> str | None:
        if not isinstance(self.error, ImportError) or not self.place:
            return None
        what = f'{self._show(self.place)} needs what is not installed ({self.message})'
        return f'{what}: install it, or leave this out.'

    def _unknown_type(self) -> str | None:
        if not isinstance(self.error, (KeyError, TypeError)) or not self.place:
            return None
        registries, place = list(self._locals_of(Registry)), f'{self.place}.type'
        kind, own = self.settings.get(place), _names_in(registries[-1:], toolbox_of(self.cfg))
        if str(kind) in self.message and 'is not in the' in self.message and kind not in own:
            return f'{self._show(place)} is not registered: {did_you_mean(str(kind), own)}'
        every = _names_in([*_root_registries(), TOKEN_MIXERS], toolbox_of(self.cfg))
        for place, value in self.settings.items():
            if (
                _is_below(place, self.place)
                and place.endswith('.type')
                and isinstance(value, str)
                and '.' not in value
                and value not in every
            ):
                return f'{self._show(place)} is not registered: {did_you_mean(value, every)}'
        return None

    def _other_channels(self) -> str | None:
        """A part of a model that was built for other channels than it is given."""
        part = self.settings[self.place]
        expected = part.get('in_channels') if isinstance(part, dict) else None
        if expected is None or not isinstance(self.error, (RuntimeError, AssertionError)):
            return None
        calls = (frame for frame in self.frames if self._place_of(frame) == self.place)
        given = next(filter(None, map(_channels_given, calls)), None)
        if given is not None and isinstance(expected, int):
            given = given[part.get('in_index', -1)]
        if given is None or given == (expected if isinstance(expected, int) else list(expected)):
            return None
        place = f'{self.place}.in_channels'
        return f'{self._show(place)} does not fit its input of {given} channels: set {given}.'

    def _refused(self) -> str | None:
        """Any other error of a part that is being built, or that runs: of model and pipelines."""
        place, part = self.place, self.settings[self.place]
        runs = _is_below(place, 'model') or '.pipeline' in place
        if not place or not isinstance(part, dict) or not (runs or self._is_building()):
            return None
        last = self.frames[-1]
        lines = [*self.message.strip().splitlines(), linecache.getline(*_line(last)).strip()]
        simple = {k: v for k, v in part.items() if not isinstance(v, (dict, list)) or _is_flat(v)}
        named = {key: v for key, v in simple.items() if re.search(rf'\b{key}\b', lines[0])}
        shown = ', '.join(f'{key}={value!r}' for key, value in (named or simple).items())
        if last.f_globals.get('__name__', '').startswith('mmdmformer'):  # it names the fix
            return f'{place}: {self.message}'
        fix = self._fix(simple)
        self.is_certain = self._is_building() and bool(named or fix)
        cause = f'{type(self.error).__name__}: {lines[0][:_LENGTH]}'
        return f'{place} with {shown} fails ({cause}): {fix or "correct it."}'

    def _is_building(self) -> bool:
        return any(
            frame.f_code.co_name.startswith('build')
            and frame.f_globals.get('__name__', '').startswith('mmengine')
            for frame in self.frames
        )

    def _fix(self, part: dict) -> str | None:
        for name, value in part.items():
            if isinstance(value, str) and re.fullmatch(r'-?\d*\.?\d+(e-?\d+)?', value):
                return f'write {name}={value} without quotation marks.'
        if part.get('begin', 0) >= part.get('end', math.inf):
            return 'train longer, or shorten the warm-up before it.'
        return None

    def _show(self, place: str) -> str:
        return f'{place}={self.settings[place]!r}'


def _line(frame: FrameType) -> tuple[str, int]:
    return frame.f_code.co_filename, frame.f_lineno


def _is_flat(values: Any) -> bool:
    return isinstance(values, list) and not any(isinstance(v, (dict, list)) for v in values)


def _is_below(place: str, other: str) -> bool:
    return f'{place}.'.startswith(f'{other}.') if other else True


def _arguments(kind: Any) -> set[str]:
    """What a function takes, or a class and those that it passes the rest on to."""
    kinds: tuple[Any, ...] = inspect.getmro(kind) if inspect.isclass(kind) else ()
    makers = [each.__init__ for each in kinds] or [kind]
    names = set()
    for maker in makers:
        with suppress(TypeError, ValueError):
            names |= set(inspect.signature(maker).parameters)
    return names - {'self', 'args', 'kwargs'}


def _channels_given(frame: FrameType) -> list[int] | None:
    """The channels of the maps that a module's method was called with."""
    code = frame.f_code
    if code.co_varnames[:1] != ('self',) or code.co_argcount < 2:
        return None
    maps = frame.f_locals.get(code.co_varnames[1])
    maps = [maps] if isinstance(maps, torch.Tensor) else maps
    if not isinstance(maps, (list, tuple)) or not maps:
        return None
    if not all(isinstance(each, torch.Tensor) and each.ndim > 1 for each in maps):
        return None
    return [each.shape[1] for each in maps]


def _root_registries() -> list[Registry]:
    return [value for value in vars(root_registries).values() if isinstance(value, Registry)]


def _names_in(registries: Iterable[Registry], scope: str | None) -> set[str]:
    """What registries hold, those above them and the toolbox's below them."""
    names = set()
    for registry in registries:
        family = [registry, registry.root, registry.root.children.get(scope)]
        for each in filter(None, family):
            with suppress(ImportError):
                each.import_from_location()
            names |= set(each.module_dict)
    return names
