# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Publish the weights of a checkpoint as .pth and .safetensors, with a hash in each name.

The states of optimizer, schedules and log are removed. All tools here load both files.
"""

import argparse

from mmdmformer.checkpoints import publish
from mmdmformer.engine import runtime


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint of a run')
    parser.add_argument('out', help='output file, such as dmformer-s.pth')
    parser.add_argument(
        '--ema',
        action=argparse.BooleanOptionalAction,
        help='use the averaged weights, or the plain ones; required if there are both',
    )
    return runtime.parse_allowing(parser)


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        runtime.check_checkpoint(args.checkpoint)
        try:
            files = publish(args.checkpoint, args.out, args.ema)
        except ValueError as error:
            raise runtime.UsageError(f'{args.checkpoint}: {error}') from error
    for path in files:
        print(f'wrote {path}, {path.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
    main()
