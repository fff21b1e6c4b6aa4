# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Faults that are injected on purpose, and the table of what happened.

A function that injects a fault so many times is registered with :func:`fault`. Modules that hold
such functions are listed in :data:`MODULES`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

MODULES = ('training', 'inputs', 'trust')  # of this package; in the order of the table
BEGIN, END = '<!-- faults: made by tools/analysis/reliability.py -->', '<!-- end of faults -->'


@dataclass
class Outcome:
    """What happened when a fault was injected.

    Attributes:
        counts (Counter): How often each thing happened, in words.
        lost (list[str]): What must not have happened, in words.
    """

    counts: Counter = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def add(self, what: str, times: int = 1) -> None:
        """Count something that is as it should be."""
        self.counts[what] += times

    def lose(self, what: str) -> None:
        """Note a crash, a hang, a wrong result or anything else that must not be."""
        self.lost.append(what)

    def check(self, is_so: bool, what: str, otherwise: str) -> None:
        """Count ``what`` if it is so, and lose ``otherwise`` if not."""
        self.add(what) if is_so else self.lose(otherwise)


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
        if importlib.util.find_spec(f'{__name__}.{module}') is not None:
            importlib.import_module(f'{__name__}.{module}')
    return FAULTS


def measure(
    faults: Iterable[Fault], results: Path, minutes: float = math.inf, echo: Callable = print
) -> bool:
    """Inject what is still missing, and write down what happened after each piece.

    Args:
        faults (Iterable[Fault]): Which.
        results (Path): JSON file; what it holds is not done again.
        minutes (float): No further piece is begun after that time. Defaults to no limit.
        echo (Callable): Gets a line of progress. Defaults to ``print``.

    Returns:
        bool: Whether all is done.
    """
    end = time.monotonic() + 60 * minutes
    found = read_results(results)
    for each in faults:
        record = found.setdefault(each.name, dict(times=0, counts={}, lost=[]))
        while record['times'] < each.times:
            if time.monotonic() > end:
                return False
            times = min(each.piece, each.times - record['times'])
            begin = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                outcome = each.inject(times, Path(folder), record['times'])
            counts = Counter(record['counts'])
            counts.update(outcome.counts)
            record.update(counts=dict(counts), lost=record['lost'] + outcome.lost)
            record['times'] += times
            results.parent.mkdir(parents=True, exist_ok=True)
            partial = results.with_suffix('.partial')
            partial.write_text(json.dumps(found, indent=1) + '\n')
            os.replace(partial, results)
            echo(
                f'{each.name}: {record["times"]} of {each.times}, {len(record["lost"])} lost '
                f'({time.monotonic() - begin:.0f} s)'
            )
    return True


def read_results(path: Path) -> dict[str, dict]:
    """What :func:`measure` wrote down; nothing if there is no file yet."""
    return json.loads(path.read_text()) if path.is_file() else {}


def make_table(faults: Iterable[Fault], results: dict[str, dict]) -> str:
    """The table in Markdown.

    Args:
        faults (Iterable[Fault]): The rows.
        results (dict[str, dict]): Of :func:`read_results`.

    Returns:
        str: A line for each fault that was injected.
    """
    lines = ['| fault | how it is injected | times | what happened | lost |', '|-|-|-:|-|-:|']
    for each in faults:
        record = results.get(each.name)
        if not record or not record['times']:
            continue
        happened = '; '.join(f'{what}: {count:,}' for what, count in record['counts'].items())
        lost = '; '.join(record['lost'][:3]) + (' ...' if len(record['lost']) > 3 else '')
        lost = f'{len(record["lost"])} ({lost})' if lost else '0'
        cells = [f'{each.group}: {each.name}', each.how, f'{record["times"]:,}', happened, lost]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)
