# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer-S with other token mixers: sizes, work, time and receptive fields in one table.

Sizes are those of the metafiles, which paper_table.py compares with models that it builds. Times
are those of ``benchmarks/cpu.sh mixers``. Receptive fields are measured with ``--fields``, which
takes minutes, and kept in benchmarks/mixers/fields.csv.
"""

import argparse
import csv
import logging
import os
from pathlib import Path

from mmengine.logging import MMLogger
from rich.progress import track

from markdown_pages import keep_table
from mmdmformer.analysis import receptive_field as erf
from paper_table import ROOT, read_models

FOLDER = 'configs/metaformer'
BEGIN, END = '<!-- mixer table -->', '<!-- end of mixer table -->'
FIELDS = ROOT / 'benchmarks/mixers/fields.csv'
TIMES = ROOT / 'benchmarks/cpu/mixers/times.csv'
SIDE, IMAGES = 224, 8
HEADER = (
    'network',
    'blocks',
    'parameters',
    'multiply-adds',
    'activations',
    'CPU time of an image',
    'receptive field',
)


def read_entries(root: Path = ROOT) -> list[dict]:
    """Read the metafiles' entries of the networks, that with DMA first and the hybrid last."""
    hybrid = 'configs/dmformer/dmformer-s-hybrid_8xb128_in1k.py'
    of_dmformer = read_models(root / 'configs/dmformer/metafile.yml')
    return [
        *read_models(root / FOLDER / 'metafile.yml'),
        *(entry for entry in of_dmformer if entry['Config'] == hybrid),
    ]


def measure_side(config: str | Path) -> int:
    """Measure the side of the square that holds 99 % of a network's effective receptive field.

    Args:
        config (str | Path): The config of a classifier; the weights are the initial ones.

    Returns:
        int: Pixels of an input of 224x224, around the center of the last map.
    """
    backbone = erf.build_backbone(str(config))
    values = erf.measure_field(backbone, erf.noise_images(IMAGES, SIDE))
    return erf.Field('', values).square_side(0.99)


def measure_fields(entries: list[dict], path: Path) -> None:
    """Measure the receptive fields of all networks and write them as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        (_network(entry['Config']), measure_side(ROOT / entry['Config']))
        for entry in track(entries, 'measuring receptive fields')
    ]
    with path.open('w', newline='') as file:
        csv.writer(file, lineterminator='\n').writerows([('name', 'side_px'), *rows])


def read_column(path: Path, column: str) -> dict[str, float]:
    """Read a column of numbers by the networks' names; nothing if there is no file.

    A row's name may be a network's, or its config.
    """
    if not path.is_file():
        return {}
    with path.open(newline='') as file:
        return {_network(row['name']): float(row[column]) for row in csv.DictReader(file)}


def make_table(entries: list[dict], seconds: dict[str, float], sides: dict[str, float]) -> str:
    """Make the table in Markdown.

    Args:
        entries (list[dict]): Entries of metafiles.
        seconds (dict[str, float]): Median time of an image, by network.
        sides (dict[str, float]): Sides of receptive fields in pixels, by
            network.

    Returns:
        str: A row for each entry, with empty cells where nothing was measured.
    """
    lines = [_row(HEADER), '| --- | --- |' + ' ---: |' * (len(HEADER) - 2)]
    for entry in entries:
        name, sizes = _network(entry['Config']), entry['Metadata']
        link = os.path.relpath(entry['Config'], FOLDER)
        lines.append(
            _row(
                [
                    f'[{entry["Name"]}]({link})',
                    ', '.join(map(str, _depths(entry))),
                    f'{sizes["Parameters"]:,}',
                    f'{sizes["FLOPs"] / 1e9:.3f} G',
                    f'{sizes["Activations"] / 1e6:.1f} M',
                    f'{seconds[name] * 1e3:.0f} ms' if name in seconds else '',
                    f'{sides[name]:.0f} px' if name in sides else '',
                ]
            )
        )
    return '\n'.join(lines)


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f'| {" | ".join(cells)} |'


def _network(config: str) -> str:
    """The network's name, which its config begins with."""
    return Path(config).stem.split('_')[0]


def _depths(entry: dict) -> tuple[int, ...]:
    from mmengine.config import Config

    return tuple(Config.fromfile(ROOT / entry['Config']).model.backbone.arch.depths)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--check', action='store_true', help='change nothing; fail on a difference')
    parser.add_argument('--fields', action='store_true', help='measure the receptive fields anew')
    args = parser.parse_args()
    MMLogger.get_instance('mixer-table', log_level=logging.ERROR)
    entries, page = read_entries(), ROOT / FOLDER / 'README.md'
    if args.fields:
        measure_fields(entries, FIELDS)
    table = make_table(entries, read_column(TIMES, 'median_s'), read_column(FIELDS, 'side_px'))
    print(table)
    keep_table(page, BEGIN, END, table, args.check, 'benchmarks/mixer_table.py')


if __name__ == '__main__':
    main()
