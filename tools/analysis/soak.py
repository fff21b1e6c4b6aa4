# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Train for thousands of iterations and plot the memory and the open files of the process.

A validation and a checkpoint follow every 8 iterations. Ends with 1 if either grows.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path

from mmdmformer.analysis.reliability.soak import COLUMNS, growth, plot, soak
from mmdmformer.engine.runtime import positive

FOLDER = Path(__file__).resolve().parents[2] / 'benchmarks/reliability'
ALLOWED = {'memory_mib': 8, 'open_files': 0}  # allocators and logs need a little


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--iterations', type=positive, default=4000, help='(default: %(default)s)')
    parser.add_argument('--out', type=Path, default=FOLDER, help='folder for soak.csv and soak.png')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = soak(args.iterations, Path(folder))
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / 'soak.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(records)
    plot(records, args.out / 'soak.png')
    grown = growth(records)
    print(f'{len(records)} records in {args.out}; from the second to the last quarter: {grown}')
    sys.exit(int(any(grown[column] > limit for column, limit in ALLOWED.items())))


if __name__ == '__main__':
    main()
