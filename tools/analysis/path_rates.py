# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Print and plot the rates of attention and convolution in an ACmix network over its depth."""

import argparse
from pathlib import Path

from mmdmformer.analysis.path_rates import format_path_rates, plot_path_rates, read_path_rates
from mmdmformer.engine import runtime


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='file or URL of a checkpoint of an ACmix network')
    parser.add_argument(
        '--out',
        type=runtime.picture,
        metavar='PICTURE',
        help='the plot (default: work_dirs/path_rates/<checkpoint name>.png)',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    name = Path(args.checkpoint).stem
    out = args.out or Path('work_dirs', 'path_rates', f'{name}.png')
    with runtime.one_sentence_errors():
        rates = read_path_rates(args.checkpoint)
    print(format_path_rates(rates))
    plot_path_rates(rates, out, name)
    print(f'\nwrote {out}')


if __name__ == '__main__':
    main()
