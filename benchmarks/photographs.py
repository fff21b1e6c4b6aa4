# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Draw where classifiers of CIFAR-10 look, on photographs that well-kept packages ship.

Of scikit-image Chelsea the cat (by Stefan van der Walt, CC0) and a rocket (by SpaceX, public
domain); of scikit-learn a flower (by the user vultilion of Flickr, CC BY 2.0). The networks see
the middle square of each at the size of their test pipeline; the maps lie over the photograph in
its own resolution.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from mmengine.logging import MMLogger
from PIL import Image

from mmdmformer.analysis import cam
from mmdmformer.analysis.loaded_model import LoadedModel, load_model, prepare_image
from mmdmformer.analysis.pictures import make_grid
from mmdmformer.checkpoints import shipped_file
from mmdmformer.engine import runtime

ROOT = Path(__file__).resolve().parents[1]
NAME = 'dmformer-nano_cifar10'
LEVELS = 64  # of a channel: a file half as large, and no difference to the eye


def read_photographs(side: int) -> dict[str, Image.Image]:
    """Read the photographs, as squares.

    Args:
        side (int): Their side in pixels.

    Returns:
        dict[str, Image.Image]: By what they show.

    Raises:
        UsageError: If scikit-image is not installed.
    """
    try:
        from skimage import data
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise runtime.UsageError(
            f'the photographs are those of scikit-image ({error}): pip install scikit-image.'
        ) from error
    flower = load_sample_image('flower.jpg')
    arrays = dict(cat=data.chelsea(), rocket=data.rocket(), flower=flower)
    return {name: _square(Image.fromarray(array), side) for name, array in arrays.items()}


def _square(image: Image.Image, side: int) -> Image.Image:
    short = min(image.size)
    left, top = ((full - short) // 2 for full in image.size)
    return image.crop((left, top, left + short, top + short)).resize((side, side), Image.LANCZOS)


def explain(model: LoadedModel, path: Path, layer: str | None) -> tuple[Image.Image, str]:
    """Draw the map of what a classifier says, over the photograph as it is.

    Args:
        model (LoadedModel): The classifier.
        path (Path): The photograph, a square.
        layer (str, optional): The layer; None takes the default.

    Returns:
        tuple[Image.Image, str]: The picture, and the class with its probability.
    """
    result = cam.explain(model, path, layer=layer, method='layercam')
    photograph = Image.open(path).convert('RGB')
    values = Image.fromarray(result.values).resize(photograph.size, Image.BICUBIC)
    view = np.asarray(photograph, np.float32) / 255
    drawn = cam.draw(replace(result, view=view, values=np.asarray(values).clip(0, 1)), len(view))
    _, inputs, samples = prepare_image(model, path)
    with torch.no_grad():
        scores = model.model.predict(inputs, samples)[0].pred_score
    return drawn, f'{model.classes[int(scores.argmax())]}, {float(scores.max()):.0%}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'models',
        nargs='*',
        metavar='CONFIG CHECKPOINT',
        help='classifiers (default: the one that comes with the package)',
    )
    parser.add_argument('--titles', nargs='+', default=['DMFormer-nano'], help='one for each')
    parser.add_argument('--layers', nargs='+', default=['backbone.stages.2'], help='one for each')
    parser.add_argument(
        '--side', type=runtime.positive, default=232, help='pixels of a photograph: %(default)s'
    )
    parser.add_argument(
        '--out',
        type=runtime.picture,
        default=ROOT / 'docs/images/photographs.png',
        metavar='PICTURE',
        help='default: docs/images/photographs.png',
    )
    args = parser.parse_args()
    MMLogger.get_instance('photographs', log_level='WARNING')
    with runtime.one_sentence_errors(), TemporaryDirectory() as folder:
        photographs = read_photographs(args.side)
        words = args.models or [str(ROOT / f'configs/cifar10/{NAME}.py'), str(shipped_file(NAME))]
        pairs = list(zip(words[::2], words[1::2], strict=False))
        if not len(args.titles) == len(args.layers) == len(pairs) == len(words) / 2:
            raise runtime.UsageError(
                f'{len(words)} words for models, {len(args.titles)} titles and '
                f'{len(args.layers)} layers: give CONFIG CHECKPOINT, a title and a layer for each.'
            )
        rows = []
        models = [load_model(*pair) for pair in pairs]
        for name, photograph in photographs.items():
            path = Path(folder, f'{name}.png')
            photograph.save(path)
            pairs = zip(models, args.layers, strict=True)
            rows.append([(photograph, name), *(explain(m, path, layer) for m, layer in pairs)])
        make_grid(rows, ['photograph', *args.titles], args.out, args.side)
        reduce_levels(args.out)
    print(f'wrote {args.out}')


def reduce_levels(path: Path) -> None:
    """Write a picture with fewer levels of each channel, and no palette."""
    step = 256 // LEVELS
    pixels = np.asarray(Image.open(path).convert('RGB')) // step
    scaled = np.rint(pixels * (255 / (LEVELS - 1))).astype(np.uint8)
    Image.fromarray(scaled).save(path, optimize=True)


if __name__ == '__main__':
    main()
