# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Unpack COCO 2017 and check that its annotations fit its images.

Interrupted and started again, it goes on. An archive may be missing once its part is complete.
"""

import argparse
import sys

from mmdmformer.datasets.archives import ArchiveError
from mmdmformer.datasets.converters import prepare_coco
from mmdmformer.datasets.layouts import COCO


def parse_args(args=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'archives', help='folder that holds {train,val}2017.zip and annotations_trainval2017.zip'
    )
    parser.add_argument('--out', default=COCO.root, help='folder to write (default: %(default)s)')
    return parser.parse_args(args)


def main(args=None):
    args = parse_args(args)
    try:
        prepare_coco(args.archives, args.out)
    except (ArchiveError, ModuleNotFoundError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print('interrupted: run the same command again to go on.', file=sys.stderr)
        sys.exit(130)


if __name__ == '__main__':
    main()
