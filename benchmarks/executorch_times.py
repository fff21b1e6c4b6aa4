# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""CPU time of backbones in ExecuTorch, as they are and as the export writes them.

All have random weights, take one picture of 224x224 pixels, and run in turns on one CPU. Writes
benchmarks/cpu/executorch/results.csv and the table of docs/deployment.md. Run it where ExecuTorch
is: `make runtimes` makes such an environment, .venv-runtimes.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from mmengine.registry import MODELS
from rich.progress import track
from torch import nn

from markdown_pages import keep_table
from mmdmformer.analysis.benchmark import BACKBONES, describe_machine
from mmdmformer.deploy import executorch_export as ours
from mmdmformer.engine.runtime import positive

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / 'benchmarks/cpu/executorch/results.csv', ROOT / 'docs/deployment.md'
BEGIN, END = '<!-- executorch table -->', '<!-- end of executorch table -->'
NAMES = ('DMFormer-S folded', 'ConvNeXt-T', 'PoolFormer-S36', 'ResNet-50')
BASELINE = 'ConvNeXt-T'
PICTURE = (1, 3, 224, 224)
TOLERANCE = 1e-4


@dataclass
class Row:
    """One network, written one way.

    Attributes:
        network (str): Its name.
        rewritten (bool): Whether as the export writes it.
        not_delegated (int): Operators that XNNPACK does not run.
        median_s (float): CPU time of a picture in seconds.
        spread (float): The distance of its quartiles in units of the median.
        machine (str): What it was measured on.
    """

    network: str
    rewritten: bool
    not_delegated: int
    median_s: float
    spread: float
    machine: str


def build(name: str) -> nn.Module:
    """Build a backbone in evaluation mode."""
    torch.manual_seed(0)
    module = MODELS.build(BACKBONES[name])
    module.eval()  # of some it returns nothing
    return module


def measure(repetitions: int) -> list[Row]:
    """Time all networks in turns.

    Args:
        repetitions (int): How often.

    Returns:
        list[Row]: One for each network and way.

    Raises:
        RuntimeError: If an output is not that of the network.
    """
    images, runs, left = torch.rand(PICTURE), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        ways = [(name, rewritten) for name in NAMES for rewritten in (False, True)]
        for name, rewritten in track(ways, description='exporting'):
            module = build(name)
            with torch.no_grad():
                expected = module(images)[-1]
            program = ours.lower(ours.delegable(module) if rewritten else module, images)
            left[name, rewritten] = sum(ours.not_delegated(program).values())
            file = Path(folder) / f'{len(runs)}.pte'
            ours.write(program, file)
            run = ours.load(file)
            difference = ((run(images)[-1] - expected).abs().max() / expected.abs().max()).item()
            if not difference < TOLERANCE:
                raise RuntimeError(f'{name} differs by {difference:.2g} of its largest value.')
            runs[name, rewritten] = run
        seconds: dict = {way: [] for way in runs}
        for _ in track(range(repetitions), description='timing'):
            for way, run in runs.items():
                start = time.process_time()
                run(images)
                seconds[way].append(time.process_time() - start)
    machine = describe_machine('cpu', channels_last=False)
    return [
        Row(*way, left[way], median, (high - low) / median, machine)
        for way, times in seconds.items()
        for low, median, high in [statistics.quantiles(times, n=4)]
    ]


def read_rows(path: Path = RESULTS) -> list[Row]:
    """Read the results."""
    with path.open(newline='', encoding='utf-8') as file:
        return [
            Row(
                row['network'],
                row['rewritten'] == 'True',
                int(row['not_delegated']),
                float(row['median_s']),
                float(row['spread']),
                row['machine'],
            )
            for row in csv.DictReader(file)
        ]


def write_rows(rows: list[Row], path: Path = RESULTS) -> None:
    """Write the results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator='\n')
        writer.writeheader()
        writer.writerows([asdict(row) for row in rows])


def make_table(rows: list[Row]) -> str:
    """The page's table and what it was measured on."""
    found = {(row.network, row.rewritten): row for row in rows}
    lines = [
        f'| network | as it is, ms | as the export writes it, ms | divided by {BASELINE} as it is '
        f'| by {BASELINE} written so | not delegated |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for name in dict.fromkeys(row.network for row in rows):
        plain, ours_ = found[name, False], found[name, True]
        times = [f'{1e3 * row.median_s:.0f} ± {row.spread / 2:.0%}' for row in (plain, ours_)]
        ratios = [f'{ours_.median_s / found[BASELINE, way].median_s:.2f}' for way in (False, True)]
        lines.append(f'| {" | ".join([name, *times, *ratios, str(ours_.not_delegated)])} |')
    machines = {row.machine.replace(', channels first', '') for row in rows}
    lines += ['', f'Median and half the distance of quartiles; {"; ".join(sorted(machines))}.']
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repetitions', type=positive, default=25, help='default: %(default)s')
    parser.add_argument('--check', action='store_true', help='change nothing; fail on a difference')
    args = parser.parse_args()
    if not args.check:
        write_rows(measure(args.repetitions))
    table = make_table(read_rows())
    print(table)
    keep_table(PAGE, BEGIN, END, table, args.check, 'benchmarks/executorch_times.py')


if __name__ == '__main__':
    # Before the runtime starts its threads, which would wait for each other and take CPU time.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    main()
