# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Train and test on the public data sets, one run after the other, and write down what comes out.

A run is a config and a seed. What results.csv holds is not run again; a run that was interrupted
goes on from its last checkpoint. The test split is touched once, by the last checkpoint.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

from mmengine.config import Config
from torch import Tensor

from mmdmformer.analysis.benchmark import describe_machine
from mmdmformer.analysis.multiply_adds import count_multiply_adds
from mmdmformer.checkpoints import find_weights, read_checkpoint
from mmdmformer.checkpoints.safetensors_file import to_bytes
from mmdmformer.engine.model import build_model
from mmdmformer.engine.runtime import UsageError, one_sentence_errors, positive

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent
RESULTS = FOLDER / 'results.csv'
PAGE = FOLDER / 'table.md'
WORK = Path('work_dirs/real')  # below the repository
LICENCE = 'Apache-2.0'  # of the weights; the data have their own


@dataclass(frozen=True)
class Set:
    """A data set, as its configs measure it.

    Attributes:
        metrics (dict[str, str]): For each metric of a table the name in the logs. The first is
            the one that matters.
        image (tuple[int, int], optional): Height and width for multiply-adds; None where these
            depend on what is found.
        scale (float): What makes the logged values percent.
    """

    metrics: dict[str, str]
    image: tuple[int, int] | None
    scale: float = 100.0


SETS = {
    'cifar10': Set({'top-1': 'accuracy/top1'}, (64, 64), scale=1.0),
    'bccd': Set(
        {
            'box AP50': 'coco/bbox_mAP_50',
            'box AP': 'coco/bbox_mAP',
            'VOC AP50': 'pascal_voc/AP50',
        },
        (240, 320),
    ),
    'camvid': Set({'mIoU': 'mIoU', 'pixel accuracy': 'aAcc'}, (360, 480), scale=1.0),
    'nuclei': Set(
        {
            'mask AP50': 'coco/segm_mAP_50',
            'mask AP': 'coco/segm_mAP',
            'box AP50': 'coco/bbox_mAP_50',
        },
        None,
    ),
}
# In the order in which they are run: detectors and segmentors start from the first.
CONFIGS = (
    'cifar10/dmformer-nano_cifar10',
    'bccd/retinanet_dmformer-nano_fpn_bccd',
    'camvid/dmformer-nano_sem-fpn_camvid',
    'nuclei/mask-rcnn_dmformer-nano_fpn_nuclei',
    'bccd/retinanet_dmformer-nano-scratch_fpn_bccd',
    'camvid/dmformer-nano-scratch_sem-fpn_camvid',
    'nuclei/mask-rcnn_dmformer-nano-scratch_fpn_nuclei',
)
# What is shipped of the first seed, as float16, and where to. It is what is tested, too.
SHIPPED = {
    config: 'mmdmformer/weights' if config.startswith('cifar10') else 'weights'
    for config in CONFIGS
    if 'scratch' not in config
}


@dataclass(frozen=True)
class Row:
    """A row of the results.

    Attributes:
        set (str): One of :data:`SETS`.
        network (str): The backbone's part of the config's name.
        config (str): Below ``configs``, without suffix.
        seed (int): Of weights, order and augmentation.
        split (str): ``'val'`` or ``'test'``.
        metric (str): One of the set's.
        value (float): In percent.
        parameters (int): Of the whole network.
        multiply_adds (int | None): For one image of the set's usual size.
        minutes (float): That training took, without validation.
        machine (str): What it was trained on.
    """

    set: str
    network: str
    config: str
    seed: int
    split: str
    metric: str
    value: float
    parameters: int
    multiply_adds: int | None
    minutes: float
    machine: str


def read_results(path: Path = RESULTS) -> list[Row]:
    """Read the results file; there are none if it is not there."""
    if not path.exists():
        return []
    numbers = dict(seed=int, value=float, parameters=int, minutes=float)
    with path.open(newline='', encoding='utf-8') as file:
        rows = [
            {k: numbers[k](text) if k in numbers else text for k, text in row.items()}
            for row in csv.DictReader(file)
        ]
    for row in rows:
        row['multiply_adds'] = int(row['multiply_adds']) if row['multiply_adds'] else None
    return [Row(**row) for row in rows]


def add_results(rows: Sequence[Row], path: Path = RESULTS) -> None:
    """Add a run's rows to the results file in one piece."""
    is_new = not path.exists()
    with path.open('a', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator='\n')
        if is_new:
            writer.writeheader()
        writer.writerows([asdict(row) for row in rows])


def missing_runs(
    results: Iterable[Row], configs: Sequence[str], seeds: int
) -> list[tuple[str, int]]:
    """List the configs and seeds that the results lack; all configs of a seed come first."""
    done = {(row.config, row.seed) for row in results}
    runs = [(config, seed) for seed in range(seeds) for config in configs]
    return [run for run in runs if run not in done]


def measure(config: str, seed: int) -> list[Row]:
    """Train and test, and keep the scalars beside the results.

    Args:
        config (str): Below ``configs``, without suffix.
        seed (int): Of weights, order and augmentation.

    Returns:
        list[Row]: One for each split and metric.

    Raises:
        UsageError: If a program fails, whose own message stands above.
    """
    name = f'{Path(config).name}_seed{seed}'
    work = WORK / name
    _call(
        'train', config, '--work-dir', work, '--resume', '--cfg-options', f'randomness.seed={seed}'
    )
    return collect(config, seed, work)


def collect(config: str, seed: int, work: Path) -> list[Row]:
    """Test a run that is complete, and keep the scalars beside the results.

    Args:
        config (str): Below ``configs``, without suffix.
        seed (int): Of weights, order and augmentation.
        work (Path): The run's folder, absolute or below the repository.

    Returns:
        list[Row]: One for each split and metric.

    Raises:
        UsageError: If the test fails, or a metric is missing.
    """
    trained = read_checkpoint((ROOT / work / 'last_checkpoint').read_text().strip())
    meta = dict(dataset_meta=trained['meta']['dataset_meta'], config=f'configs/{config}.py')
    content = dict(state_dict=_halved(find_weights(trained)), meta=meta)
    shipped = ROOT / work / f'{Path(config).name}.safetensors'
    shipped.write_bytes(to_bytes(content))
    _call('test', config, shipped, '--work-dir', work / 'test')
    scalars = _read_lines(sorted((ROOT / work).glob('*/vis_data/scalars.json')))
    validated = [row for row in scalars if 'loss' not in row][-1]
    tested = _read_lines(sorted((ROOT / work / 'test').glob('*/*.json')))[-1]
    rows = make_rows(config, seed, scalars, dict(val=validated, test=tested))
    meta.update(licence=LICENCE, results=[asdict(row) for row in rows])
    shipped.write_bytes(to_bytes(content))
    if seed == 0 and config in SHIPPED:
        (ROOT / SHIPPED[config]).mkdir(exist_ok=True)
        shutil.copy2(shipped, ROOT / SHIPPED[config] / shipped.name)
    kept = FOLDER / f'logs/{Path(config).name}_seed{seed}.jsonl'
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(''.join(f'{json.dumps(row)}\n' for row in scalars), encoding='utf-8')
    return rows


def _halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}


def make_rows(
    config: str, seed: int, scalars: Sequence[dict], measured: Mapping[str, Mapping[str, float]]
) -> list[Row]:
    """Make a run's rows.

    Args:
        config (str): Below ``configs``, without suffix.
        seed (int): Of weights, order and augmentation.
        scalars (Sequence[dict]): What mmengine logged.
        measured (Mapping): For each split the values by their names in the logs.

    Returns:
        list[Row]: One for each split and metric.

    Raises:
        UsageError: If a value is missing.
    """
    name, stem = config.split('/')
    group = SETS[name]
    model = build_model(Config.fromfile(ROOT / f'configs/{config}.py'))
    common = dict(
        set=name,
        network=next(part for part in stem.split('_') if 'former' in part),
        config=config,
        seed=seed,
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=group.image and count_multiply_adds(model, group.image),
        minutes=round(training_minutes(scalars), 1),
        machine=describe_machine('cpu', False),
    )
    rows = []
    for split, values in measured.items():
        for metric, key in group.metrics.items():
            if key not in values:
                raise UsageError(f'{config} measured no {key} on the {split} split: see its log.')
            value = round(values[key] * group.scale, 2)
            rows.append(Row(split=split, metric=metric, value=value, **common))
    return rows


def training_minutes(scalars: Sequence[dict]) -> float:
    """Add up the time of a run's iterations.

    Args:
        scalars (Sequence[dict]): What mmengine logged; ``time`` is the mean of the last iterations.

    Returns:
        float: The minutes, without validation and starts.

    Examples:
        >>> training_minutes([dict(step=10, loss=1.0, time=3), dict(step=20, loss=1.0, time=9)])
        2.0
    """
    # A run that went on from a checkpoint has logged some steps twice.
    times = {row['step']: row['time'] for row in scalars if 'loss' in row}
    steps = sorted(times)
    return sum((b - a) * times[b] for a, b in pairwise([0, *steps])) / 60


def _call(tool: str, config: str, *args: object) -> None:
    command = [sys.executable, f'tools/{tool}.py', f'configs/{config}.py', *map(str, args)]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise UsageError(f'{" ".join(command[1:])} failed: see above.')


def _read_lines(files: Iterable[Path]) -> list[dict]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def make_table(rows: Sequence[Row], name: str) -> str:
    """Write a set's results on its test split in Markdown, means over the seeds.

    Args:
        rows (Sequence[Row]): All results.
        name (str): The set.

    Returns:
        str: The table.
    """
    metrics = list(SETS[name].metrics)
    lines = [
        f'| config | {" | ".join(f"{m}, %" for m in metrics)} | validation {metrics[0]}, % | seeds '
        '| parameters | multiply-adds | minutes |',
        f'|{" --- |" * (len(metrics) + 6)}',
    ]
    for config in dict.fromkeys(row.config for row in rows if row.set == name):
        ours = [row for row in rows if row.config == config]
        cells = [_spread(ours, 'test', metric) for metric in metrics]
        cells.append(_spread(ours, 'val', metrics[0]))
        first = ours[0]
        adds = f'{first.multiply_adds / 1e6:,.0f} M' if first.multiply_adds else '-'
        minutes = statistics.mean({row.seed: row.minutes for row in ours}.values())
        cells += [str(len({row.seed for row in ours})), f'{first.parameters / 1e6:.2f} M', adds]
        lines.append(
            f'| [{Path(config).name}](../../configs/{config}.py) | '
            f'{" | ".join(cells)} | {minutes:.0f} |'
        )
    return '\n'.join(lines)


def _spread(rows: Sequence[Row], split: str, metric: str) -> str:
    values = [row.value for row in rows if (row.split, row.metric) == (split, metric)]
    mean = f'{statistics.mean(values):.1f}'
    return f'{mean} ± {statistics.stdev(values):.1f}' if len(values) > 1 else mean


def make_page(rows: Sequence[Row]) -> str:
    """Write the tables of all sets.

    Args:
        rows (Sequence[Row]): All results.

    Returns:
        str: The page.
    """
    parts = ['# Results on real data\n']
    for name in dict.fromkeys(row.set for row in rows):
        machines = '; '.join(dict.fromkeys(row.machine for row in rows if row.set == name))
        parts.append(f'## {name}\n\n{make_table(rows, name)}\n\nTrained on {machines}.\n')
    return '\n'.join(parts)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'configs', nargs='*', metavar='CONFIG', help=f'some of {", ".join(CONFIGS)} (default: all)'
    )
    parser.add_argument('--seeds', type=positive, default=1, help='how many, from 0 (default: 1)')
    parser.add_argument('--list', action='store_true', help='list what is missing, and run nothing')
    parser.add_argument(
        '--check', action='store_true', help='fail if the page is not that of the results'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    for config in missing_runs(read_results(), args.configs or CONFIGS, args.seeds):
        if args.check:
            break
        if args.list:
            print(*config)
            continue
        with one_sentence_errors():
            add_results(measure(*config))
        PAGE.write_text(make_page(read_results()), encoding='utf-8')
    made = make_page(read_results())
    if args.check and made != PAGE.read_text(encoding='utf-8'):
        sys.exit(f'error: {PAGE.name} is not that of {RESULTS.name}: run benchmarks/real/run.py.')
    PAGE.write_text(made, encoding='utf-8')


if __name__ == '__main__':
    main()
