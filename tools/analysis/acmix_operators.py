# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Time ACmix's windowed attention, SAN's aggregation and the three kinds of shifts.

The maps' default size is that of a ResNet's first stage for an image of 800x1280 pixels.
"""

import argparse
import sys

import torch
from rich.progress import Progress

import mmdmformer  # noqa: F401  (prepares the stack)
from mmdmformer.analysis import acmix_operators
from mmdmformer.analysis.benchmark import describe_machine
from mmdmformer.engine.runtime import positive


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--size', nargs=2, type=positive, default=(200, 320), metavar=('H', 'W'))
    parser.add_argument('--channels', type=positive, default=64, help='default: %(default)s')
    parser.add_argument(
        '--device', default='cpu', help='such as cpu or cuda (default: %(default)s)'
    )
    parser.add_argument(
        '--threads', type=positive, help='threads on a CPU (default: one for each core)'
    )
    parser.add_argument('--repetitions', type=positive, default=5, help='default: %(default)s')
    args = parser.parse_args()
    if args.channels < 8 or args.channels % 8:
        parser.error(f'--channels {args.channels} must be a multiple of 8.')
    if min(*args.size, args.repetitions) < 1:
        parser.error('--size and --repetitions must be positive.')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device} needs a GPU and none is visible: use --device cpu.')
    return args


def main() -> None:
    args = parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with Progress() as progress:
        task = progress.add_task('timing', total=acmix_operators.num_steps(args.repetitions))
        rows = acmix_operators.measure_parts(
            *args.size,
            args.channels,
            args.device,
            args.repetitions,
            on_step=lambda: progress.advance(task),
        )
    machine = describe_machine(args.device, channels_last=False)
    print(f'Measured on {machine}, with `python {" ".join(sys.argv)}`.\n')
    print(acmix_operators.make_table(rows))


if __name__ == '__main__':
    main()
