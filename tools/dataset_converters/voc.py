# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Convert the boxes of a data set from Pascal VOC's layout to COCO's JSON files, one per list.

Their numbers are those that mmdet's XMLDataset gives, which subtracts 1 from coordinates, or with
--first-pixel 0 those of the files as they are.
"""

import argparse
import json
import sys
from pathlib import Path

from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.datasets.to_coco import voc_to_coco


def main() -> None:
    """Convert as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', type=Path, help='directory with Annotations and ImageSets/Main')
    parser.add_argument(
        '--classes', nargs='+', required=True, help='class names in the order of their labels'
    )
    parser.add_argument('--splits', nargs='+', default=['train', 'val', 'test'])
    parser.add_argument('--out', type=Path, help='output directory (default: coco in it)')
    parser.add_argument(
        '--first-pixel',
        type=int,
        choices=(0, 1),
        default=1,
        help="number of an image's first pixel in the files (default: 1, as VOC has it)",
    )
    args = parser.parse_args()
    out = args.out or args.root / 'coco'
    try:
        out.mkdir(parents=True, exist_ok=True)
        for split in args.splits:
            content = voc_to_coco(args.root, split, args.classes, args.first_pixel)
            path = out / f'{split}.json'
            path.write_text(json.dumps(content), encoding='utf-8')
            images, boxes = (len(content[part]) for part in ('images', 'annotations'))
            print(f'{path}: {images:,} images, {boxes:,} boxes')
            shifted = sum(min(found['bbox'][:2]) == -1 for found in content['annotations'])
            if shifted:
                print(
                    f'{path}: {shifted:,} boxes begin at -1, as their files count pixels from 0: '
                    'convert them with --first-pixel 0.'
                )
    except (BadInputError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
