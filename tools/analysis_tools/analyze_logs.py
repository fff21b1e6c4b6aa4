# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Plot losses and metrics of one or many training runs."""

import argparse
from pathlib import Path

from mmdmformer.analysis import curves
from mmdmformer.engine import runtime


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('runs', nargs='+', metavar='DIR', help='work_dir of a run')
    parser.add_argument(
        '--keys', nargs='+', default=['loss'], metavar='KEY', help='such as loss accuracy/top1'
    )
    parser.add_argument(
        '--smooth',
        type=runtime.positive,
        default=1,
        metavar='N',
        help='draw averages of N values of training',
    )
    parser.add_argument(
        '--out',
        type=runtime.picture,
        default='work_dirs/curves/curves.png',
        metavar='PICTURE',
        help='default: %(default)s',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        runs = [curves.read_run(folder) for folder in args.runs]
        figure = curves.plot(runs, args.keys, args.smooth)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=110)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
