# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Make every picture of README and docs.

Pictures of the demo's networks are made from its runs in work_dirs/demo, which are trained first
where they are missing. Pictures of measurements are drawn anew from the measurements in the
repository; their commands in the table measure anew.
"""

import argparse
import csv
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 'docs/images'
RUNS = 'work_dirs/demo'
DEMO_WIDTH = 912  # pixels
COLORS = 256  # of a palette
MINI = 'configs/mini'
CLASSIFIER = f'{MINI}/dmformer-nano_mini-imagenet.py {RUNS}/classification/train/epoch_6.pth'
DETECTOR = f'{MINI}/retinanet_dmformer-nano_fpn_mini-coco.py {RUNS}/detection/train/epoch_6.pth'
SEGMENTOR = f'{MINI}/dmformer-nano_sem-fpn_mini-ade20k.py {RUNS}/segmentation/train/iter_800.pth'
DMFORMER_S = 'configs/dmformer/dmformer-s'
SCALES = "arch='small', layer_scale_init_value=1.0"


@dataclass(frozen=True)
class Figure:
    """A picture, what it shows, and the command that makes it.

    ``draw``, where given, draws the picture from what the command measured before. Photographs keep
    their colors, without a ``palette``.
    """

    picture: str
    shows: str
    command: str
    needs_demo: bool = False
    draw: Callable[[Path], None] | None = None
    palette: bool = True


def shrink_demo(picture: Path) -> None:
    from PIL import Image

    with Image.open(ROOT / RUNS / 'all.png') as sheet:
        height = round(sheet.height * DEMO_WIDTH / sheet.width)
        small = sheet.resize((DEMO_WIDTH, height))
    small.save(picture)


def reduce_colors(picture: Path) -> None:
    """Make a picture's file a half to a third as large, as the repository keeps every version."""
    from PIL import Image

    with Image.open(picture) as image:
        reduced = image.convert('RGB').quantize(COLORS)
    reduced.save(picture, optimize=True)


def draw_convergence(picture: Path) -> None:
    import convergence

    results = convergence.read_results(picture.with_name('results.csv'))
    convergence.plot(results, picture, convergence.Settings())


def draw_soak(picture: Path) -> None:
    import soak

    soak.plot(soak.read_records(picture.with_name('soak.csv')), picture)


def draw_growth(picture: Path) -> None:
    from mmdmformer.analysis import benchmark

    results = [
        benchmark.Measurement(
            benchmark.Case(row['mode'], *(int(row[key]) for key in ('batch', 'height', 'width'))),
            row['name'],
            read_seconds(row),
            int(row['peak_bytes']),
        )
        for row in read_times(picture)
    ]
    benchmark.plot_growth(results, picture, read_machine(picture))


def draw_attention(picture: Path) -> None:
    import attention_scaling

    rows = [
        attention_scaling.Row(
            row['name'], math.isqrt(int(row['tokens'])), read_seconds(row), int(row['peak_bytes'])
        )
        for row in read_times(picture)
    ]
    attention_scaling.plot(rows, picture, read_machine(picture))


def read_times(picture: Path) -> list[dict[str, str]]:
    """The measurements beside a picture."""
    with picture.with_name('times.csv').open(newline='') as file:
        return list(csv.DictReader(file))


def read_seconds(row: dict[str, str]) -> list[float]:
    return [float(value) for key, value in row.items() if key.startswith('seconds_') and value]


def read_machine(picture: Path) -> str:
    """What the measurements beside a picture were made on."""
    text = picture.with_name('table.md').read_text()
    return re.match('Measured on (.*), with `', text)[1]


FIGURES = (
    Figure(
        f'{IMAGES}/demo.png',
        "predictions of the demo's networks",
        'make demo',
        needs_demo=True,
        draw=shrink_demo,
    ),
    Figure(
        f'{IMAGES}/architecture.png',
        "DMFormer's block and its token mixer",
        f'python benchmarks/architecture_figure.py --out {IMAGES}/architecture.png',
    ),
    Figure(
        f'{IMAGES}/photographs.png',
        'where DMFormer-nano looks on photographs, trained on CIFAR-10',
        f'python benchmarks/photographs.py --out {IMAGES}/photographs.png',
        palette=False,
    ),
    Figure(
        f'{IMAGES}/erf.png',
        'effective receptive fields of DMFormer-S, with and without dilation',
        f'python tools/visualization/vis_erf.py {DMFORMER_S}_8xb128_in1k.py '
        f'{DMFORMER_S}-no-dilation_8xb128_in1k.py "DMFormer({SCALES})" '
        f'"DMFormer({SCALES}, mixer=dict(dilations=(1, 1, 1)))" --side 1024 --count 2 --titles '
        "'initial weights, dilations 1, 2, 3' 'initial weights, no dilation' "
        "'layer scales 1, dilations 1, 2, 3' 'layer scales 1, no dilation' "
        f'--out {IMAGES}/erf.png',
    ),
    Figure(
        f'{IMAGES}/training.png',
        "losses and accuracy of the demo's training",
        f'python tools/analysis_tools/analyze_logs.py {RUNS}/classification/train '
        f'{RUNS}/detection/train {RUNS}/segmentation/train --keys loss accuracy/top1 --smooth 5 '
        f'--out {IMAGES}/training.png',
        needs_demo=True,
    ),
    Figure(
        f'{IMAGES}/accuracy.png',
        'accuracies that the papers print over parameters',
        f'python benchmarks/plot_accuracy.py --out {IMAGES}/accuracy.png',
    ),
    Figure(
        'benchmarks/convergence/curves.png',
        'how fast a network learns with each activation of its attention',
        'python benchmarks/convergence.py --out benchmarks/convergence',
        draw=draw_convergence,
    ),
    Figure(
        'benchmarks/attention/inference/times.png',
        'time and memory of dynamic convolutions over the number of tokens',
        'python benchmarks/attention_scaling.py --repetitions 3 '
        '--out benchmarks/attention/inference',
        draw=draw_attention,
    ),
    Figure(
        'benchmarks/cpu/growth-pixels/times.png',
        'time and memory over the pixels of an image',
        'benchmarks/cpu.sh growth',
        draw=draw_growth,
    ),
    Figure(
        'benchmarks/cpu/growth-batch/times.png',
        'time and memory over the batch',
        'benchmarks/cpu.sh growth',
        draw=draw_growth,
    ),
    Figure(
        'benchmarks/miniature/plot.png',
        'metrics over cost in the study on small data',
        'python benchmarks/train_miniature.py --report',
    ),
    Figure(
        'benchmarks/reliability/soak.png',
        'memory and open files in a long training',
        'python benchmarks/soak.py',
        draw=draw_soak,
    ),
)


def make_table() -> str:
    """The table of figures in docs/pictures.md."""
    lines = ['| figure | content | command |', '| --- | --- | --- |']
    for figure in FIGURES:
        link = os.path.relpath(figure.picture, 'docs')
        lines.append(f'| [{figure.picture}]({link}) | {figure.shows} | `{figure.command}` |')
    return '\n'.join(lines)


def run(command: str) -> None:
    """Run a command of the table from the root, with this Python."""
    print(f'$ {command}', flush=True)
    program, *words = shlex.split(command)
    if program != 'python':
        raise ValueError(f'{command} cannot be run here.')
    if subprocess.call([sys.executable, *words], cwd=ROOT):
        sys.exit('The command failed.')


def has_demo() -> bool:
    """Whether the demo's runs are there, with the checkpoints that the commands name."""
    words = f'{CLASSIFIER} {DETECTOR} {SEGMENTOR} {RUNS}/all.png'.split()
    return all((ROOT / word).is_file() for word in words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--only', nargs='+', metavar='PICTURE', help='such as docs/images/erf.png')
    parser.add_argument('--list', action='store_true', help='print the table of figures')
    args = parser.parse_args()
    if args.list:
        print(make_table())
        return
    pictures = [figure.picture for figure in FIGURES]
    unknown = set(args.only or ()) - set(pictures)
    if unknown:
        parser.error(f'there is no {", ".join(sorted(unknown))}: choose of {", ".join(pictures)}')
    chosen = [figure for figure in FIGURES if figure.picture in (args.only or pictures)]
    if any(figure.needs_demo for figure in chosen) and not has_demo():
        run('python demo/three_tasks.py')
    for i, figure in enumerate(chosen, 1):
        print(f'[{i}/{len(chosen)}] {figure.picture}: {figure.shows}', flush=True)
        if figure.draw is None:
            run(figure.command)
        else:
            figure.draw(ROOT / figure.picture)
        if figure.palette:
            reduce_colors(ROOT / figure.picture)


if __name__ == '__main__':
    main()
