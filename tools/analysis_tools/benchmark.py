# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Time DMFormer beside other backbones in one run, and write table, CSV and plot.

A case is inference or training, the batch size, height and width: inference:4x224x224.
"""

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

import torch
from rich.progress import Progress

import mmdmformer  # noqa: F401  (registers the backbones)
from mmdmformer.analysis import benchmark
from mmdmformer.engine.runtime import positive


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--cases', nargs='+', default=['inference:4x224x224'], metavar='CASE')
    parser.add_argument(
        '--models',
        nargs='+',
        type=_model,
        metavar='MODEL',
        help=f'configs, or some of {", ".join(benchmark.BACKBONES)}, each of which " bf16" and '
        '" compiled" may follow; default: all of these, without compiled ones where a CPU has no '
        'C++ compiler',
    )
    parser.add_argument('--baseline', type=_model, default='DMFormer-S', metavar='MODEL')
    parser.add_argument(
        '--device', default='cpu', help='such as cpu or cuda (default: %(default)s)'
    )
    parser.add_argument(
        '--threads', type=positive, help='threads on a CPU (default: one for each core)'
    )
    parser.add_argument('--repetitions', type=positive, default=7, help='default: %(default)s')
    parser.add_argument('--channels-last', action='store_true')
    parser.add_argument(
        '--growth', action='store_true', help='plot time and memory over pixels, instead of bars'
    )
    parser.add_argument('--out', default='work_dirs/benchmark', help='output directory')
    args = parser.parse_args()
    try:
        args.cases = [benchmark.Case.parse(case) for case in args.cases]
    except ValueError as error:
        parser.error(str(error))
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device {args.device} needs a GPU and none is visible: use --device cpu.')
    if args.models is None:
        args.models = _measurable_models(args.device)
    return args


def _model(text: str) -> str:
    if benchmark.is_known(text) or (text.endswith('.py') and Path(text).is_file()):
        return text
    raise argparse.ArgumentTypeError(
        f'{text!r} is neither a config nor one of {", ".join(benchmark.BACKBONES)}.'
    )


def _measurable_models(device: str) -> list[str]:
    can_compile = device != 'cpu' or shutil.which(os.environ.get('CXX', 'g++'))
    return [m for m in benchmark.BACKBONES if can_compile or benchmark.COMPILED not in m]


def main() -> None:
    args = parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    machine = benchmark.describe_machine(args.device, args.channels_last)
    tables, results = [f'Measured on {machine}, with `python {shlex.join(sys.argv)}`.'], []
    with Progress() as progress:
        for case in args.cases:
            steps = benchmark.num_steps(case, args.models, args.repetitions)
            task = progress.add_task(str(case), total=steps)
            measured = benchmark.measure(
                case,
                args.models,
                args.device,
                args.repetitions,
                args.channels_last,
                on_step=lambda task=task: progress.advance(task),
            )
            results += measured
            tables.append(benchmark.make_table(measured, args.baseline))
            # at once, so that a run cut off loses nothing
            text = '\n\n'.join(tables) + '\n'
            (out / 'table.md').write_text(text)
            benchmark.write_csv(results, out / 'times.csv')
    draw = benchmark.plot_growth if args.growth else benchmark.plot
    draw(results, out / 'times.png', machine)
    print(text)
    print(f'wrote table.md, times.csv and times.png to {out}')


if __name__ == '__main__':
    main()
