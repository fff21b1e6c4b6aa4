# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Draw each set's results over parameters, multiply-adds and CPU time.

The time is that of the backbone and what joins its maps (neck, feature pyramid), for one image of
the set's usual size in evaluation mode; all else is the same for all networks of a set.
"""

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from comparison import DMFORMER, MIXER, ROOT, make_config, split_name
from mmdmformer.analysis.benchmark import describe_machine
from mmdmformer.engine.model import build_model
from results import FOLDER, SETS, Row, image_size, read_results

TIMES = FOLDER / 'times.csv'
CROP = 256, 256  # pixels, where a set has no usual size
REPETITIONS = 15


def measure_times(configs: Sequence[str], repetitions: int = REPETITIONS) -> dict[str, float]:
    """Measure the CPU time of networks, all in turn.

    Args:
        configs (Sequence[str]): Below ``configs``, without suffix.
        repetitions (int): How often each is timed. Defaults to 15.

    Returns:
        dict[str, float]: Medians in milliseconds.
    """
    passes = {config: _make_pass(config) for config in configs}
    times: dict[str, list[float]] = {config: [] for config in configs}
    for i in range(repetitions + 1):
        for config, run in passes.items():
            start = time.process_time()
            run()
            if i:  # the first is to warm up
                times[config].append(time.process_time() - start)
    return {config: 1e3 * statistics.median(values) for config, values in times.items()}


def _make_pass(config: str) -> Callable[[], object]:
    cfg = make_config(config, 1.0, ROOT)
    model = build_model(cfg).eval()
    images = torch.rand(1, 3, *(image_size(cfg, split_name(config)[0]) or CROP))

    @torch.inference_mode()
    def run() -> None:
        model.extract_feat(images)

    return run


def write_times(times: Mapping[str, float], path: Path = TIMES) -> None:
    """Write the times, and what they were measured on."""
    machine = describe_machine('cpu', False)
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['config', 'milliseconds', 'machine'])
        writer.writerows([config, round(value, 2), machine] for config, value in times.items())


def read_times(path: Path = TIMES) -> dict[str, float]:
    """Read the times; there are none if the file is not there."""
    if not path.exists():
        return {}
    with path.open(newline='', encoding='utf-8') as file:
        return {row['config']: float(row['milliseconds']) for row in csv.DictReader(file)}


def plot(rows: Sequence[Row], times: Mapping[str, float], path: Path) -> None:
    """Draw one set's metric on the test split over each cost that is known.

    Args:
        rows (Sequence[Row]): The set's results.
        times (Mapping[str, float]): Milliseconds for each config.
        path (Path): Picture to write.
    """
    metric = next(iter(SETS[rows[0].set].metrics))
    rows = [row for row in rows if (row.split, row.metric) == ('test', metric)]
    panels = {
        'parameters, millions': {row.config: row.parameters / 1e6 for row in rows},
        'multiply-adds, millions': {
            row.config: row.multiply_adds / 1e6 for row in rows if row.multiply_adds
        },
        'CPU time of an image, ms': {
            row.config: times[row.config] for row in rows if row.config in times
        },
    }
    panels = {title: costs for title, costs in panels.items() if costs}
    figure = Figure(figsize=(4.2 * len(panels), 4.2), layout='constrained')
    for axes, (title, costs) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        _scatter(axes, rows, costs)
        axes.set_xlabel(title)
    first, *_ = figure.axes
    first.set_ylabel(f'{rows[0].set}: {metric} on the test split, %')
    figure.legend(*first.get_legend_handles_labels(), loc='outside right upper', fontsize='small')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _scatter(axes: Axes, rows: Sequence[Row], costs: Mapping[str, float]) -> None:
    networks = {row.config: row.network for row in rows}
    for i, (config, network) in enumerate(networks.items()):
        values = [row.value for row in rows if row.config == config]
        if config not in costs:
            continue
        # DMFormer and its ablations are round, mixers diamonds, other networks squares.
        marker = 'o' if network.startswith(DMFORMER) else 'D' if network.startswith(MIXER) else 's'
        axes.errorbar(
            costs[config],
            statistics.mean(values),
            statistics.stdev(values) if len(values) > 1 else 0,
            fmt=marker,
            markersize=9 if network == DMFORMER else 6,
            color=f'C{i % 10}',
            markerfacecolor=f'C{i % 10}' if i < 10 else 'white',
            capsize=3,
            label=network,
        )
    axes.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--times', action='store_true', help='measure the CPU times anew before')
    parser.add_argument('--out', type=Path, default=FOLDER, help='folder (default: beside this)')
    args = parser.parse_args()
    results = read_results()
    if args.times:
        torch.set_num_threads(1)
        write_times(measure_times(list(dict.fromkeys(row.config for row in results))))
    for name in dict.fromkeys(row.set for row in results):
        plot([row for row in results if row.set == name], read_times(), args.out / f'{name}.png')
        print(f'wrote {args.out / name}.png')


if __name__ == '__main__':
    main()
