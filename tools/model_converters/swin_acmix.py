# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Convert a Swin-ACmix checkpoint of the authors' own code, for configs with SwinACmix.

The result can be used to test classifiers, and as the pretrained checkpoint of any config.
"""

import argparse

from mmdmformer.checkpoints import convert_checkpoint, swin_acmix
from mmdmformer.engine import runtime


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help="the authors' checkpoint file")
    parser.add_argument('out', help='file to write, .pth or .safetensors')
    return runtime.parse_allowing(parser)


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        runtime.check_checkpoint(args.checkpoint)
        try:
            written = convert_checkpoint(args.checkpoint, args.out, swin_acmix.from_authors)
        except ValueError as error:
            raise runtime.UsageError(f'{args.checkpoint}: {error}') from error
    print(f'wrote {len(written["state_dict"])} tensors to {args.out}')


if __name__ == '__main__':
    main()
