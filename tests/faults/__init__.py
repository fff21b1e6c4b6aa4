# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Faults that are injected on purpose.

A function that injects a fault so many times is registered with :func:`fault`. Modules that hold
such functions are listed in :data:`MODULES`.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MODULES = ('training', 'inputs', 'hostile_files')  # of this package; in the order of the table


@dataclass
class Outcome:
    """What happened when a fault was injected.

    Attributes:
        counts (Counter): How often each thing happened, in words.
        failures (list[str]): What must not have happened, in words.
    """

    counts: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, what: str, times: int = 1) -> None:
        """Count an expected result."""
        self.counts[what] += times

    def fail(self, what: str) -> None:
        """Note a failure: a crash, a hang, a wrong result."""
        self.failures.append(what)

    def check(self, is_so: bool, what: str, otherwise: str) -> None:
        """Count ``what`` if it is so, and note ``otherwise`` if not."""
        self.add(what) if is_so else self.fail(otherwise)


@dataclass
class Fault:
    """A kind of fault.

    Attributes:
        group (str): Where it belongs in the table.
        name (str): What goes wrong.
        how (str): How it is injected.
        times (int): How often in the long version.
        piece (int): How often in one call.
        inject (Callable): Takes the number of times, an empty folder and a seed; returns an
            :class:`Outcome`.
    """

    group: str
    name: str
    how: str
    times: int
    piece: int
    inject: Callable[[int, Path, int], Outcome]


FAULTS: dict[str, Fault] = {}


def fault(group: str, name: str, how: str, times: int, piece: int | None = None) -> Callable:
    """Register a function that injects a fault.

    Args:
        group (str): Where it belongs in the table.
        name (str): What goes wrong; no two faults share it.
        how (str): How it is injected.
        times (int): How often in the long version.
        piece (int, optional): How often in one call, which should last at most two minutes.
            Defaults to all.

    Returns:
        Callable: A decorator, which returns the function itself.
    """

    def register(inject: Callable[[int, Path, int], Outcome]) -> Callable:
        FAULTS[name] = Fault(group, name, how, times, piece or times, inject)
        return inject

    return register


def load_faults() -> dict[str, Fault]:
    """All faults, by name."""
    for module in MODULES:
        importlib.import_module(f'{__name__}.{module}')
    return FAULTS
