# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Train DMFormer-nano, its ablations and other networks of its size alike, and compare them.

Each is trained for classification, and from there for Semantic FPN, on the built-in data. A run
that is in the results file is not repeated; one that was interrupted begins anew.
"""

import argparse
import math
import signal
import sys
from functools import partial
from pathlib import Path

import torch

from miniature import report, training
from miniature.study import TASKS, Recipe, Study, all_runs
from mmdmformer.analysis.benchmark import describe_machine
from mmdmformer.engine import runtime
from real.networks import NETWORKS

ROOT = Path(__file__).resolve().parents[1]
say = partial(print, flush=True)  # a log file shows it at once, too
RECIPE_OPTIONS = {
    'images': 'training images of each task',
    'val_images': 'validation images of classification',
    'val_scenes': 'validation images of segmentation',
    'epochs': 'of classification',
    'iterations': 'of segmentation',
}


def parse_args() -> argparse.Namespace:
    recipe = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--networks',
        nargs='+',
        choices=NETWORKS,
        default=list(NETWORKS),
        metavar='NAME',
        help=f'some of {", ".join(map(repr, NETWORKS))} (default: all)',
    )
    parser.add_argument(
        '--tasks',
        nargs='+',
        choices=TASKS,
        default=list(TASKS),
        help='default: both',
    )
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='default: 0 1 2')
    for name, what in RECIPE_OPTIONS.items():
        parser.add_argument(
            f'--{name.replace("_", "-")}',
            type=runtime.positive,
            default=getattr(recipe, name),
            help=f'{what} (default: %(default)s)',
        )
    parser.add_argument('--threads', type=runtime.positive, default=1, help='default: %(default)s')
    parser.add_argument(
        '--minutes', type=float, default=math.inf, help='begin no run that would end later'
    )
    parser.add_argument(
        '--report', action='store_true', help='train nothing: table and plot of what there is'
    )
    parser.add_argument('--costs', action='store_true', help='measure the costs anew')
    parser.add_argument(
        '--out',
        type=Path,
        default=ROOT / 'benchmarks/miniature',
        help='folder for results.json, table.md and plot.png (default: benchmarks/miniature)',
    )
    parser.add_argument('--page', type=Path, help='put the table between the marks of this page')
    parser.add_argument('--data', type=Path, default=Path('data/miniature'), help='its images')
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/miniature'),
        help='folder for configs, logs and checkpoints (default: %(default)s)',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    # An exit in good order, which ends the training that runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folders = training.Folders(ROOT, args.data.resolve(), args.work_dir.resolve())
    path = args.out / 'results.json'
    runs = all_runs(args.networks, args.tasks, args.seeds)
    with runtime.one_sentence_errors():
        recipe = Recipe(**{name: getattr(args, name) for name in RECIPE_OPTIONS})
        study = Study.read(path, recipe)
        if not args.report:
            training.make_data(recipe, folders.data)
            training.train_missing(runs, study, path, folders, args.minutes, say)
        trained = study.networks()
        if not trained:
            raise runtime.UsageError(f'no run is in {path} yet: leave --report and --minutes out.')
        if args.costs or {cost.network for cost in study.costs} != set(trained):
            study.costs = training.measure_costs(trained, recipe, folders)
            study.machine = describe_machine('cpu', False)
            study.write(path)
        print(report.write_report(study, args.out, args.page))
    left = len(set(runs) - {result.run for result in study.results})
    print(f'\nwrote results.json, table.md and plot.png to {args.out}; {left} runs are left')


if __name__ == '__main__':
    main()
