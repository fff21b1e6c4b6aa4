# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Convert a Swin-ACmix checkpoint of the authors' own code, for configs with SwinACmix.

The result serves for testing classifiers, and as the `pretrained` of any config.
"""

import argparse

import mmdmformer  # noqa: F401  (prepares the stack)
from mmdmformer.engine import runtime
from mmdmformer.engine.swin_acmix_checkpoint import convert_checkpoint


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help="the authors' checkpoint file")
    parser.add_argument('out', help='file to write')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        runtime.check_checkpoint(args.checkpoint)
        try:
            count = convert_checkpoint(args.checkpoint, args.out)
        except ValueError as error:
            raise runtime.UsageError(f'{args.checkpoint}: {error}') from error
    print(f'wrote {count} tensors to {args.out}')


if __name__ == '__main__':
    main()
