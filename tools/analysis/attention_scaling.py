# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Time attention as dynamic convolution beside softmax over the number of tokens.

One layer of DeiT-S's width on one image. Writes table, CSV and plot.
"""

import argparse
import sys
from pathlib import Path

import torch
from rich.progress import Progress

from mmdmformer.analysis import attention_scaling
from mmdmformer.analysis.benchmark import describe_machine
from mmdmformer.engine.runtime import positive


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--sides',
        nargs='+',
        type=positive,
        default=[14, 24, 32, 48, 64, 96, 128],
        help='sides of the grids of tokens (default: 14 to 128, which is 196 to 16384 tokens)',
    )
    parser.add_argument(
        '--mixers',
        nargs='+',
        choices=attention_scaling.MIXERS,
        default=list(attention_scaling.MIXERS),
    )
    parser.add_argument('--training', action='store_true', help='go backward too')
    parser.add_argument(
        '--device', default='cpu', help='such as cpu or cuda (default: %(default)s)'
    )
    parser.add_argument(
        '--threads', type=positive, help='threads on a CPU (default: one for each core)'
    )
    parser.add_argument('--repetitions', type=positive, default=7, help='default: %(default)s')
    parser.add_argument(
        '--max-gb',
        type=float,
        default=1.0,
        help='leave out matrices of relative positions larger than this (default: %(default)s)',
    )
    parser.add_argument('--out', default='work_dirs/attention_scaling', help='folder to write to')
    args = parser.parse_args()
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device} needs a GPU and none is visible: use --device cpu.')
    return args


def main() -> None:
    args = parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    options = dict(repetitions=args.repetitions, max_bytes=args.max_gb * 1e9)
    rows = []
    with Progress() as progress:
        for side in args.sides:
            steps = attention_scaling.num_steps(side, args.mixers, **options)
            task = progress.add_task(f'{side}x{side} tokens', total=steps)
            rows += attention_scaling.measure(
                side,
                args.mixers,
                training=args.training,
                device=args.device,
                on_step=lambda task=task: progress.advance(task),
                **options,
            )
    machine = describe_machine(args.device, channels_last=False)
    text = f'Measured on {machine}, with `python {" ".join(sys.argv)}`.\n\n'
    text += attention_scaling.make_table(rows) + '\n'
    (out / 'table.md').write_text(text)
    attention_scaling.write_csv(rows, out / 'times.csv')
    attention_scaling.plot(rows, out / 'times.png', machine)
    print(text)
    print(f'wrote table.md, times.csv and times.png to {out}')


if __name__ == '__main__':
    main()
