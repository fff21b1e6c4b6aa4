# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What was measured on the public data sets, in a file, and the tables made of it."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mmengine.config import Config

from comparison import ROOT, chosen_factor, read_rates

FOLDER = Path(__file__).parent
RESULTS = FOLDER / 'results.csv'
PAGE = FOLDER / 'table.md'


@dataclass(frozen=True)
class Set:
    """A data set, as its configs measure it.

    Attributes:
        metrics (dict[str, str]): For each metric of a table the name in the logs. The first is
            the one that matters.
        image (tuple[int, int], optional): Height and width for multiply-adds; None where these
            depend on what is found, or the config crops to a size.
        scale (float): What makes the logged values percent.
    """

    metrics: dict[str, str]
    image: tuple[int, int] | None
    scale: float = 100.0


SETS = {
    'cifar10': Set({'top-1': 'accuracy/top1'}, None, scale=1.0),
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


def image_size(cfg: Config, name: str) -> tuple[int, int] | None:
    """The height and width that a set's multiply-adds and times are for.

    Args:
        cfg (Config): A config of the set.
        name (str): The set.

    Returns:
        tuple[int, int] | None: None where they depend on what is found.
    """
    crops = [step.crop_size for step in cfg.test_pipeline if step.type == 'CenterCrop']
    return (crops[0], crops[0]) if crops else SETS[name].image


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
    """Add a run's rows, of any dataclass, to a results file in one piece."""
    is_new = not path.exists()
    with path.open('a', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, [f.name for f in fields(rows[0])], lineterminator='\n')
        if is_new:
            writer.writeheader()
        writer.writerows([asdict(row) for row in rows])


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
        lines.append(f'| {_linked(config)} | {" | ".join(cells)} | {minutes:.0f} |')
    return '\n'.join(lines)


def _linked(config: str) -> str:
    name = Path(config).name
    if (ROOT / f'configs/{config}.py').is_file():
        return f'[{name}](../../configs/{config}.py)'
    tried = read_rates().get(config)
    rate = f', {chosen_factor(config):g} times the learning rate' if tried else ''
    return f'[{name}](networks.py){rate}'


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
