# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Predict for images or a video, and draw the predictions.

The config says whether it classifies, detects or segments. Images that cannot be read are named and
skipped; the exit code is 1 then.
"""

import argparse
import sys
from pathlib import Path

from mmengine.logging import MMLogger
from rich.progress import Progress

from gallery import make_entry, write_gallery
from mmdmformer.checkpoints import read_checkpoint
from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.engine import runtime
from mmdmformer.engine.overrides import CfgOptions
from predictions import Output, Predictor, Video, find_images, is_video

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = 'mmdmformer/weights', 'weights'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('input', help='an image, a folder, a glob in quotation marks, or a video')
    parser.add_argument(
        'config',
        help='config file of any OpenMMLab toolbox, or the name of weights that come with the '
        'repository, such as dmformer-nano_cifar10',
    )
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file, unless a name is given')
    parser.add_argument(
        '--out-dir', default='work_dirs/predictions', help='for the drawings: %(default)s'
    )
    parser.add_argument('--gallery', metavar='HTML', help='write all of them into one page')
    parser.add_argument('--score-thr', type=float, default=0.3, help='of boxes: %(default)s')
    parser.add_argument(
        '--every',
        type=runtime.positive,
        default=1,
        metavar='N',
        help='take every N-th frame of a video',
    )
    parser.add_argument('--device', help='such as cpu (default: a GPU if there is one)')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    return parser.parse_args()


def find_shipped(name: str) -> tuple[str, str]:
    """Find weights that come with the repository.

    Args:
        name (str): Of the file, without suffix.

    Returns:
        tuple[str, str]: Their config and the file.

    Raises:
        runtime.UsageError: If there is no such file.
    """
    files = {
        path.stem: path for folder in WEIGHTS for path in (ROOT / folder).glob('*.safetensors')
    }
    if name not in files:
        raise runtime.UsageError(
            f'{name} needs a checkpoint after it: only weights that come with the repository '
            f'({", ".join(sorted(files)) or "none yet"}) bring their config.'
        )
    meta = read_checkpoint(str(files[name]))['meta']
    return str(ROOT / meta['config']), str(files[name])


def main() -> None:
    args = parse_args()
    MMLogger.get_instance('image_demo', log_level='WARNING')
    with runtime.one_sentence_errors():
        if args.checkpoint is None:
            args.config, args.checkpoint = find_shipped(args.config)
        video = Video(args.input, args.every) if is_video(args.input) else None
        images = find_images(args.input) if video is None else video
        predictor = Predictor(
            args.config, args.checkpoint, args.device, args.score_thr, args.cfg_options
        )
        output = Output(args.out_dir, video)
        skipped, entries = [], []
        with Progress() as progress:
            for path, name in progress.track(images, len(images), description=predictor.task):
                try:
                    prediction = predictor(path)
                except BadInputError as error:
                    skipped.append(f'skipped: {error}')
                    progress.console.print(skipped[-1], markup=False)
                    continue
                output.add(path, name, prediction.picture)
                if args.gallery:
                    entries.append(make_entry(str(name), prediction.label, prediction.picture))
                elif video is None:
                    progress.console.print(f'{name}: {prediction.label}', markup=False)
        output.close()
    print(f'wrote {output.count} drawings to {output.where}')
    if args.gallery:
        title = f'{Path(args.config).stem} on {args.input}'
        write_gallery(entries, args.gallery, title, skipped)
        print(f'wrote {args.gallery}')
    if skipped:
        print(f'error: {len(skipped)} of {len(images)} images cannot be read.', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
