# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Inject every fault, and write the table of docs/reliability.md.

What was done before is not done again: the command can be stopped and started at will. Without
``benchmarks/reliability/results.json`` everything is done again. Run with the environment of the
maintained forks it fills rows of its own.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path

from markdown_pages import keep_table
from mmdmformer.compat import report
from mmdmformer.engine.runtime import positive

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / 'tests'), str(ROOT / 'demo')]  # where faults are, and made-up data
from faults import Fault, load_faults  # noqa: E402

RESULTS = ROOT / 'benchmarks/reliability/results.json'
DOCUMENT = ROOT / 'docs/reliability.md'
FORKS = ' (onedl)'
BEGIN, END = '<!-- faults: made by benchmarks/reliability.py -->', '<!-- end of faults -->'


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
        record = found.setdefault(each.name + stack(), dict(times=0, counts={}, lost=[]))
        while record['times'] < each.times:
            if time.monotonic() > end:
                return False
            times = min(each.piece, each.times - record['times'])
            begin = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                outcome = each.inject(times, Path(folder), record['times'])
            counts = Counter(record['counts'])
            counts.update(outcome.counts)
            record.update(counts=dict(counts), lost=record['lost'] + outcome.failures)
            record['times'] += times
            record['date'] = date.today().isoformat()
            results.parent.mkdir(parents=True, exist_ok=True)
            partial = results.with_suffix('.partial')
            partial.write_text(json.dumps(found, indent=1) + '\n')
            os.replace(partial, results)
            echo(
                f'{each.name}: {record["times"]} of {each.times}, {len(record["lost"])} failures '
                f'({time.monotonic() - begin:.0f} s)'
            )
    return True


def stack() -> str:
    """What is added to the names of faults that are injected beside the maintained forks."""
    return FORKS if 'forks' in report.stack() else ''


def read_results(path: Path) -> dict[str, dict]:
    """What :func:`measure` wrote down; nothing if there is no file yet."""
    return json.loads(path.read_text()) if path.is_file() else {}


def make_table(faults: Iterable[Fault], results: dict[str, dict]) -> str:
    """The table in Markdown, with the date of each row's last fault.

    Args:
        faults (Iterable[Fault]): The rows.
        results (dict[str, dict]): Of :func:`read_results`.

    Returns:
        str: A line for each fault that was injected.
    """
    lines = ['| fault | how it is injected | date | times | what happened | failures |']
    lines.append('|-|-|-|-:|-|-:|')
    for each, of in product(faults, ('', FORKS)):
        record = results.get(each.name + of)
        if not record or not record['times']:
            continue
        happened = '; '.join(f'{what}: {count:,}' for what, count in record['counts'].items())
        failures = '; '.join(record['lost'][:3]) + (' ...' if len(record['lost']) > 3 else '')
        failures = f'{len(record["lost"])} ({failures})' if failures else '0'
        cells = [
            f'{each.group}: {each.name}{of}',
            each.how,
            record['date'],
            f'{record["times"]:,}',
            happened,
            failures,
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--only', nargs='+', metavar='NAME', help='these faults alone')
    parser.add_argument(
        '--times', type=positive, help='inject each so often, as a sample that is written nowhere'
    )
    parser.add_argument('--list', action='store_true', help='print the names and how often')
    parser.add_argument(
        '--minutes', type=float, default=math.inf, help='begin nothing new after that time'
    )
    parser.add_argument(
        '--check', action='store_true', help='inject nothing; fail if the table is not up to date'
    )
    args = parser.parse_args()
    faults = load_faults()
    unknown = set(args.only or ()) - set(faults)
    if unknown:
        parser.error(f'no such fault: {", ".join(sorted(unknown))}; --list prints the names')
    if args.list:
        for each in faults.values():
            print(f'{each.group}: {each.name} ({each.times} times)')
        return
    done = True
    chosen = [each for each in faults.values() if not args.only or each.name in args.only]
    if args.times is not None:
        few = [replace(each, times=args.times, piece=args.times) for each in chosen]
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder, 'results.json')
            measure(few, results, args.minutes)
            print(make_table(few, read_results(results)))
            sys.exit(int(any(record['lost'] for record in read_results(results).values())))
    if not args.check:
        done = measure(chosen, RESULTS, args.minutes)
    results = read_results(RESULTS)
    table = make_table(faults.values(), results)
    keep_table(DOCUMENT, BEGIN, END, table, args.check, 'benchmarks/reliability.py')
    if args.check:
        return
    if not done:
        print('not everything is done yet: run the same command again to go on.')
    sys.exit(int(any(record['lost'] for record in results.values())))


if __name__ == '__main__':
    main()
