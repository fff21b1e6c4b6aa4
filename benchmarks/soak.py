# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Train for thousands of iterations and plot the memory and the open files of the process.

A validation and a checkpoint follow every 8 iterations. Ends with 1 if either grows.
"""

import argparse
import csv
import statistics
import sys
import tempfile
from pathlib import Path

from matplotlib.figure import Figure

from mmdmformer.engine.runtime import positive

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'benchmarks/reliability'
sys.path += [str(ROOT / 'tests'), str(ROOT / 'demo')]  # where faults are, and made-up data
from faults.soak import COLUMNS, read_records, soak  # noqa: E402, F401

ALLOWED = {'memory_mib': 8, 'open_files': 0}  # allocators and logs need a little


def growth(records: list[dict[str, float]]) -> dict[str, float]:
    """How much more there is in the last quarter of a run than in the second.

    Args:
        records (list[dict[str, float]]): In order.

    Returns:
        dict[str, float]: Difference of the medians, by column.

    Examples:
        >>> growth([dict(memory_mib=m, open_files=9) for m in (7, 8, 8, 8)])
        {'memory_mib': 0, 'open_files': 0}
    """
    quarter = len(records) // 4
    parts = records[quarter : 2 * quarter], records[3 * quarter :]
    return {
        column: statistics.median(r[column] for r in parts[1])
        - statistics.median(r[column] for r in parts[0])
        for column in COLUMNS[1:]
    }


def plot(records: list[dict[str, float]], path: Path) -> None:
    """Draw memory and open files against the iteration.

    Args:
        records (list[dict[str, float]]): Of :func:`soak`.
        path (Path): The picture.
    """
    figure = Figure(figsize=(7, 4), layout='constrained')
    axes = figure.subplots(2, sharex=True)
    for axis, column, label in zip(axes, COLUMNS[1:], ('memory (MiB)', 'open files'), strict=True):
        axis.plot([r['iteration'] for r in records], [r[column] for r in records], linewidth=1)
        axis.set(ylabel=label, ylim=(0, 1.2 * max(r[column] for r in records)))
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel('iteration')
    figure.savefig(path, dpi=120)


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
