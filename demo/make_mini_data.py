# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Write the built-in data: digits on photographs, laid out as ImageNet, COCO and ADE20K are."""

import argparse
import sys

from mini_data import MiniDataError, make_mini_data


def parse_args(args=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', default='data/mini', help='folder to write (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=1, help='same seed, same files (default: 1)')
    parser.add_argument(
        '--scale', type=float, default=1.0, help='multiplies the numbers of images (default: 1)'
    )
    parser.add_argument(
        '--force', action='store_true', help='rewrite a folder that this tool made before'
    )
    return parser.parse_args(args)


def main(args=None):
    args = parse_args(args)
    try:
        make_mini_data(args.out, args.seed, args.scale, force=args.force)
    except (MiniDataError, ModuleNotFoundError, ValueError) as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()
