# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Convert a classifier's checkpoint between the names of mmpretrain and those of timm.

The direction is detected from its content. Averaged weights (EMA) are converted, too.
"""

import argparse

from mmdmformer.checkpoints import convert_checkpoint, timm_names
from mmdmformer.engine import runtime


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint of mmpretrain, or of timm')
    parser.add_argument('out', help='file to write, .pth or .safetensors')
    return runtime.parse_allowing(parser)


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        runtime.check_checkpoint(args.checkpoint)
        try:
            written = convert_checkpoint(args.checkpoint, args.out, timm_names.exchange_names)
        except ValueError as error:
            raise runtime.UsageError(f'{args.checkpoint}: {error}') from error
    print(f'wrote {args.out} with the names of {timm_names.names_of(written["state_dict"])}')


if __name__ == '__main__':
    main()
