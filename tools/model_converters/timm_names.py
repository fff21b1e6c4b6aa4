# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Convert a classifier's checkpoint between the names of mmpretrain and those of timm.

Its content tells the direction. Averages of the weights (EMA) go along.
"""

import argparse

import mmdmformer  # noqa: F401  (prepares the stack)
from mmdmformer.engine import runtime
from mmdmformer.engine.timm_checkpoint import convert_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint of mmpretrain, or of timm')
    parser.add_argument('out', help='file to write, .pth or .safetensors')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        runtime.check_checkpoint(args.checkpoint)
        try:
            style = convert_checkpoint(args.checkpoint, args.out)
        except ValueError as error:
            raise runtime.UsageError(f'{args.checkpoint}: {error}') from error
    print(f'wrote {args.out} with the names of {style}')


if __name__ == '__main__':
    main()
