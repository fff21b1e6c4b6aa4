# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Train a nano DynamicViT with each activation on the built-in digits, and plot the losses.

What the results file holds already is not run again, so that the study can be done in pieces.
"""

import argparse
from pathlib import Path

import torch
from rich.progress import Progress

from mmdmformer.analysis import convergence
from mmdmformer.analysis.benchmark import describe_machine
from mmdmformer.engine import runtime


def parse_args() -> argparse.Namespace:
    defaults = convergence.Settings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', default='data/mini/imagenet', help='default: %(default)s')
    parser.add_argument('--out', default='work_dirs/convergence', help='folder to write to')
    parser.add_argument(
        '--variants',
        nargs='+',
        choices=convergence.VARIANTS,
        default=list(convergence.VARIANTS),
        metavar='NAME',
        help=f'some of {", ".join(convergence.VARIANTS)} (default: all)',
    )
    parser.add_argument('--seeds', type=runtime.positive, default=3, help='default: %(default)s')
    parser.add_argument(
        '--epochs', type=runtime.positive, default=defaults.epochs, help='default: %(default)s'
    )
    parser.add_argument(
        '--images', type=runtime.positive, default=defaults.images, help='default: %(default)s'
    )
    parser.add_argument('--threads', type=runtime.positive, default=1, help='default: %(default)s')
    parser.add_argument(
        '--minutes', type=float, default=float('inf'), help='begin no run that would end later'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    settings = convergence.Settings(images=args.images, epochs=args.epochs)
    path = Path(args.out, 'results.csv')
    with runtime.one_sentence_errors():
        data = (
            convergence.read_images(args.data, 'train', settings.size, settings.images),
            convergence.read_images(args.data, 'val', settings.size),
        )
    todo = convergence.missing_runs(path, args.variants, args.seeds)
    with Progress() as progress:
        task = progress.add_task('training', total=len(todo) * settings.epochs)
        results = convergence.run_missing(
            path,
            data,
            settings,
            args.variants,
            args.seeds,
            args.minutes,
            on_epoch=lambda: progress.advance(task),
        )
    left = len(convergence.missing_runs(path, args.variants, args.seeds))
    table = convergence.make_table(results)
    measured = (
        f'Measured on {describe_machine("cpu", False)}, on {len(data[1].labels):,} held-out images.'
    )
    Path(args.out, 'table.md').write_text(f'{table}\n\n{measured}\n')
    convergence.plot(results, Path(args.out, 'curves.png'), settings)
    print(table)
    print(f'\nwrote results.csv, table.md and curves.png to {args.out}; {left} runs are left')


if __name__ == '__main__':
    main()
