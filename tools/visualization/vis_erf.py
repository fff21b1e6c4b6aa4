# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Plot the effective receptive fields of several backbones in one figure.

Prints the sides of the squares around their centers that contain 50, 80 and 99 % of them.
"""

import argparse
from pathlib import Path

from mmengine.logging import MMLogger
from rich.progress import Progress

from mmdmformer.analysis import receptive_field as erf
from mmdmformer.checkpoints import input_channels
from mmdmformer.engine import runtime


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'models',
        nargs='+',
        metavar='MODEL',
        help='a config, with a checkpoint after it if there is one, or a backbone such as '
        '"DMFormer(arch=\'small\', mixer=dict(dilations=(1, 1, 1)))"',
    )
    parser.add_argument('--titles', nargs='+', help='one for each model (default: its name)')
    parser.add_argument('--images', nargs='+', metavar='FILE', help='images (default: noise)')
    parser.add_argument(
        '--count', type=runtime.positive, default=8, help='of noise images: %(default)s'
    )
    parser.add_argument(
        '--side', type=runtime.positive, default=512, help='of the input: %(default)s pixels'
    )
    parser.add_argument('--stage', type=int, default=-1, help="which of the backbone's outputs")
    parser.add_argument(
        '--out',
        type=runtime.picture,
        default='work_dirs/erf/erf.png',
        metavar='PICTURE',
        help='default: %(default)s',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    MMLogger.get_instance('erf', log_level='WARNING')
    with runtime.one_sentence_errors(), Progress() as progress:
        pairs = erf.split_specs(args.models)
        titles = args.titles or [Path(m).stem if m.endswith('.py') else m for m, _ in pairs]
        if len(titles) != len(pairs):
            raise runtime.UsageError(f'--titles has {len(titles)} titles for {len(pairs)} models.')
        count = len(args.images or ()) or args.count
        task = progress.add_task('images', total=count * len(pairs))
        fields = []
        for title, pair in zip(titles, pairs, strict=True):
            backbone = erf.build_backbone(*pair)
            channels = input_channels(backbone)
            if args.images:
                images = erf.real_images(args.images, args.side, channels)
            else:
                images = erf.noise_images(args.count, args.side, channels)
            values = erf.measure_field(backbone, images, args.stage, lambda: progress.advance(task))
            fields.append(erf.Field(title, values))
    erf.plot(fields, args.out)
    print(erf.make_table(fields))
    print(f'\nwrote {args.out}')


if __name__ == '__main__':
    main()
