# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Print the parameters and the multiply-adds of a config's model for one image.

Convolutions and matrix products are counted, as in most papers; for a two-stage detector, whose
cost depends on the number of proposals, only those of the backbone.
"""

import argparse
from pathlib import Path

from mmengine.analysis.print_helper import _format_size

from mmdmformer.analysis.loaded_model import TASKS
from mmdmformer.analysis.multiply_adds import count_multiply_adds
from mmdmformer.engine import runtime
from mmdmformer.engine.model import build_model, toolbox_of
from mmdmformer.engine.overrides import CfgOptions

SHAPES = dict(classification=(224, 224), detection=(800, 1280), segmentation=(512, 512))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file of any OpenMMLab toolbox')
    parser.add_argument(
        '--shape',
        type=runtime.positive,
        nargs='+',
        metavar='PIXELS',
        help='height and width of the image, or one for both (default: 224x224 for a classifier, '
        '800x1280 for a detector, 512x512 for a segmentor)',
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='as for tools/train.py')
    args = parser.parse_args()
    if args.shape is not None and len(args.shape) > 2:
        parser.error(f'--shape takes height and width, not {len(args.shape)} numbers.')
    return args


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        cfg = runtime.read_config_file(args.config, args.cfg_options)
        height, *width = args.shape or SHAPES[TASKS.get(toolbox_of(cfg), 'classification')]
        shape = height, *(width or [height])
        model = build_model(cfg)
        parts = dict(model=model, backbone=model.backbone)
        if hasattr(model, 'roi_head'):
            del parts['model']
        print(f'Input shape: {shape}')
        for name, part in parts.items():
            flops = _format_size(count_multiply_adds(part, shape))
            params = _format_size(sum(p.numel() for p in part.parameters()))
            print(f'{name}: Flops {flops} (multiply-adds), Params {params}')


if __name__ == '__main__':
    main()
