# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Draw class activation maps of several models side by side on the same images.

Each row shows the image, and for each model its input, overlaid with the map, with the explained
class below. Classifiers explain a class; detectors the score of a box, which is drawn;
segmentors the score of a pixel, or of the region of a class.
"""

import argparse
from pathlib import Path

from mmengine.logging import MMLogger
from rich.progress import track

from mmdmformer.analysis import cam
from mmdmformer.analysis.cam_targets import Request, check_request
from mmdmformer.analysis.loaded_model import load_model
from mmdmformer.analysis.pictures import make_grid, read_image
from mmdmformer.engine import runtime
from mmdmformer.engine.overrides import CfgOptions


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'paths',
        nargs='+',
        metavar='IMAGE... CONFIG CHECKPOINT',
        help='images, then a config, which ends in .py, and a checkpoint for each model '
        "('none' for initial weights)",
    )
    parser.add_argument(
        '--target-class', metavar='CLASS', help='index or name (default: what is predicted)'
    )
    parser.add_argument(
        '--box', type=int, metavar='INDEX', help="a detector's box by falling score (default: 0)"
    )
    parser.add_argument(
        '--pixel',
        type=int,
        nargs=2,
        metavar=('X', 'Y'),
        help="a segmentor's pixel by column and row (default: the region of the class)",
    )
    parser.add_argument(
        '--layer', help="name of the layer (default: the backbone's last one with a map)"
    )
    parser.add_argument(
        '--method', choices=cam.METHODS, default='gradcam', help='default: %(default)s'
    )
    parser.add_argument('--titles', nargs='+', help='one for each model (default: its config)')
    parser.add_argument(
        '--height', type=runtime.positive, default=224, help='height of an image in the figure'
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='for all configs')
    parser.add_argument(
        '--out',
        type=runtime.picture,
        default='work_dirs/cam/cam.png',
        metavar='PICTURE',
        help='default: %(default)s',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    MMLogger.get_instance('cam', log_level='WARNING')
    with runtime.one_sentence_errors():
        images, pairs = cam.split_arguments(args.paths)
        titles = args.titles or [Path(config).stem for config, _ in pairs]
        if len(titles) != len(pairs):
            raise runtime.UsageError(f'--titles has {len(titles)} titles for {len(pairs)} models.')
        rows = [[(read_image(image), Path(image).name)] for image in images]
        request = Request(args.target_class, args.box, args.pixel and tuple(args.pixel))
        models = [load_model(*pair, args.cfg_options) for pair in pairs]
        check_request(request, {model.task for model in models})
        for title, model in zip(titles, models, strict=True):
            for row, image in zip(track(rows, title), images, strict=True):
                result = cam.explain(model, image, request, args.layer, args.method)
                row.append((cam.draw(result, args.height), result.target.caption))
            print(f'{title}: {args.method} of {result.layer}')
        make_grid(rows, ['image', *titles], args.out, args.height)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
