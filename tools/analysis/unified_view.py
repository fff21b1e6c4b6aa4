# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Print a network's token mixers as convolutions: which are dynamic, and what their kernels are.

A layer is dynamic if its forward pass multiplies two tensors that both depend on the image. Without
a backbone, the mixers of the paper's Table 1 are printed, and DMFormer's beside them.
"""

import argparse

import torch

from mmdmformer.analysis import unified_view
from mmdmformer.engine import runtime
from mmdmformer.engine.variables import CfgOptions


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'backbone',
        nargs='?',
        help='config file or name in the registry, such as DMFormer or mmpretrain.SwinTransformer',
    )
    parser.add_argument(
        '--options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='arguments of the backbone, such as arch=large',
    )
    parser.add_argument(
        '--size', type=runtime.positive, default=224, help='side in pixels (default: 224)'
    )
    parser.add_argument('--markdown', action='store_true', help='print Markdown')
    parser.add_argument('--where', action='store_true', help='list the modules of each row')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        if args.backbone is None:
            names, rows = zip(*unified_view.view_family(), strict=True)
        else:
            backbone = unified_view.build_backbone(args.backbone, args.options)
            rows = unified_view.view_network(backbone, torch.rand(1, 3, args.size, args.size))
            names = [row.mixer for row in rows]
    table = unified_view.make_table(rows, names)
    print((unified_view.make_markdown if args.markdown else unified_view.make_text)(table))
    if args.where:
        for name, row in zip(names, rows, strict=True):
            print(f'\n{name}: {", ".join(row.paths)}')
            for product in row.products:
                print(f'    {product}')


if __name__ == '__main__':
    main()
