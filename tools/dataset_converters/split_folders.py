# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Split a directory with one folder per class into lists of training and validation images.

Every n-th image of a class, in the order of names, is for validation. mmpretrain's CustomDataset
takes the lists as ann_file.
"""

import argparse
import sys
from pathlib import Path

from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.datasets.to_coco import split_folders
from mmdmformer.engine.runtime import positive


def main() -> None:
    """Split as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', type=Path, help='directory with one folder per class')
    parser.add_argument('--out', type=Path, help='output directory (default: the one above)')
    parser.add_argument(
        '--every', type=positive, default=10, help='use every n-th image (default: %(default)s)'
    )
    args = parser.parse_args()
    try:
        for split, lines in split_folders(args.images, args.every).items():
            path = (args.out or args.images.parent) / f'{split}.txt'
            path.write_text('\n'.join([*lines, '']), encoding='utf-8')
            print(f'{path}: {len(lines):,} images')
    except (BadInputError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
