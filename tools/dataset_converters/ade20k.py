# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Unpack ADE20K (the scene parsing benchmark).

Interrupted and started again, it goes on. An archive may be missing once its part is complete.
"""

import argparse
import sys

from mmdmformer.datasets.archives import ArchiveError
from mmdmformer.datasets.converters import prepare_ade20k
from mmdmformer.datasets.layouts import ADE20K


def parse_args(args=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('archives', help='folder that holds ADEChallengeData2016.zip')
    parser.add_argument('--out', default=ADE20K.root, help='folder to write (default: %(default)s)')
    return parser.parse_args(args)


def main(args=None):
    args = parse_args(args)
    try:
        prepare_ade20k(args.archives, args.out)
    except (ArchiveError, ModuleNotFoundError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print('interrupted: run the same command again to go on.', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
