# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Write COCO's JSON files for images whose objects have one mask image each.

The nuclei of the 2018 Data Science Bowl are published as <name>/images/<name>.png and
<name>/masks/*.png. Two images in ten are for testing and one for validation, by the SHA-256 of
their names.
"""

import argparse
import json
import sys
from pathlib import Path

from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.datasets.to_coco import masks_to_coco, split_of_name


def main() -> None:
    """Convert as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', type=Path, help='directory with one folder per image')
    parser.add_argument(
        '--out', type=Path, help='output directory (default: annotations beside it)'
    )
    parser.add_argument('--class-name', default='nucleus', help='default: %(default)s')
    args = parser.parse_args()
    out = args.out or args.images.parent / 'annotations'
    try:
        names = sorted(path.name for path in args.images.iterdir() if path.is_dir())
        out.mkdir(parents=True, exist_ok=True)
        for split in ('train', 'val', 'test'):
            chosen = [name for name in names if split_of_name(name) == split]
            content = masks_to_coco(args.images, chosen, args.class_name)
            path = out / f'{split}.json'
            path.write_text(json.dumps(content), encoding='utf-8')
            print(f'{path}: {len(chosen):,} images, {len(content["annotations"]):,} objects')
    except (BadInputError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
