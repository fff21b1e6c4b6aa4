# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Time DMFormer's depthwise operator beside three torch convolutions, at DMFormer-S's stages."""

import argparse
import itertools
import shlex
import sys
from pathlib import Path

import torch
from rich.progress import track

import operator_alternatives
import operator_benchmark
from mmdmformer.analysis import benchmark
from mmdmformer.engine.runtime import positive
from mmdmformer.ops.backend import BACKENDS


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--batches', nargs='+', type=positive, default=[1, 4, 32], metavar='B')
    parser.add_argument(
        '--passes',
        nargs='+',
        choices=operator_benchmark.PASSES,
        default=['forward'],
        metavar='P',
        help='forward, backward, or both together (default: forward)',
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=_size,
        default=[(224, 224)],
        metavar='HxW',
        help='of the images, in pixels (default: 224x224)',
    )
    parser.add_argument('--device', default='cpu', help='such as cpu or cuda (default: cpu)')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16', 'float16'), default='float32')
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument('--backend', choices=BACKENDS, default='auto', help='default: %(default)s')
    parser.add_argument(
        '--threads', type=positive, help='threads on a CPU (default: one for each core)'
    )
    parser.add_argument('--repetitions', type=positive, default=9, help='default: %(default)s')
    parser.add_argument(
        '--alternatives',
        action='store_true',
        help='time other ways to compute it in inference instead (CPU, float32, channels last)',
    )
    parser.add_argument(
        '--channels',
        nargs='+',
        type=positive,
        default=operator_benchmark.CHANNELS,
        metavar='C',
        help="of each stage's maps (default: DMFormer-S's)",
    )
    parser.add_argument('--out', help='file to write the tables to, beside printing them')
    args = parser.parse_args()
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device} needs a GPU and none is visible: use --device cpu.')
    return args


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is no size, such as 800x1333') from None
    return height, width


def write(path: str | None, parts: list[str]) -> None:
    """Write what there is so far, so that a run cut off loses nothing."""
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text('\n\n'.join(parts) + '\n')


def time_alternatives(args: argparse.Namespace) -> list[str]:
    """A table of other ways for each batch."""
    machine = benchmark.describe_machine('cpu', channels_last=True)
    parts = [
        f'Measured on {machine}, with `python {shlex.join(sys.argv)}`. Median (minimum to maximum) '
        f'of {args.repetitions} interleaved repetitions, summed over the four stages.'
    ]
    for batch in track(args.batches, 'batches'):
        table = operator_alternatives.make_table(
            operator_alternatives.measure(batch, args.repetitions)
        )
        parts.append(f'Batch {batch}:\n\n{table}')
    return parts


def time_operator(args: argparse.Namespace) -> list[str]:
    """A table of the operator beside torch's convolutions for each batch."""
    dtype = getattr(torch, args.dtype)
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    limits = operator_benchmark.measure_limits(args.device, dtype)
    machine = benchmark.describe_machine(args.device, args.channels_last, args.dtype)
    parts = [
        f'Measured on {machine}, with `python {shlex.join(sys.argv)}`. Median (minimum to maximum) '
        f'of {args.repetitions} interleaved repetitions. This machine does '
        f'{limits[0] / 1e9:.0f} GMAC/s in a dense 3x3 convolution and moves '
        f'{limits[1] / 1e9:.1f} GB/s in a copy.'
    ]
    jobs = list(itertools.product(args.passes, args.sizes, args.batches))
    for passes, size, batch in track(jobs, 'tables'):
        rows = operator_benchmark.measure_operator(
            batch,
            passes,
            args.device,
            dtype,
            memory_format,
            args.backend,
            args.repetitions,
            size,
            args.channels,
        )
        title = f'{passes}, images of {size[0]}x{size[1]}'
        parts.append(f'{title}:\n\n{operator_benchmark.make_table(rows, limits)}')
        write(args.out, parts)
    return parts


def main() -> None:
    args = parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    parts = time_alternatives(args) if args.alternatives else time_operator(args)
    print('\n\n'.join(parts))
    write(args.out, parts)


if __name__ == '__main__':
    main()
