# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Inject every fault, and write the table of docs/reliability.md.

What was done before is not done again: the command can be stopped and started at will.
"""

import argparse
import math
import sys
from pathlib import Path

from mmdmformer.analysis.markdown import replace_between
from mmdmformer.analysis.reliability import (
    BEGIN,
    END,
    load_faults,
    make_table,
    measure,
    read_results,
)

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'benchmarks/reliability/results.json'
DOCUMENT = ROOT / 'docs/reliability.md'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--only', nargs='+', metavar='NAME', help='these faults alone')
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
    if not args.check:
        chosen = [each for each in faults.values() if not args.only or each.name in args.only]
        done = measure(chosen, RESULTS, args.minutes)
    results = read_results(RESULTS)
    text = DOCUMENT.read_text(encoding='utf-8')
    new = replace_between(text, BEGIN, END, make_table(faults.values(), results))
    if args.check:
        sys.exit(f'{DOCUMENT} is not up to date: run {Path(__file__).name}' if new != text else 0)
    DOCUMENT.write_text(new, encoding='utf-8')
    if not done:
        print('not everything is done yet: run the same command again to go on.')
    sys.exit(int(any(record['lost'] for record in results.values())))


if __name__ == '__main__':
    main()
