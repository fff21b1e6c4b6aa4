# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Time and memory of dynamic convolutions beside softmax attention, over the number of tokens.

Softmax runs on torch's fused attention. The repetitions of all are interleaved, as in
:mod:`~mmdmformer.analysis.benchmark`. One layer of DeiT-S's width on one image; writes a table, a
CSV file and a plot.
"""

import argparse
import csv
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.progress import Progress
from torch import nn

from mmdmformer.analysis.benchmark import describe_machine, interleave, measure_peak_bytes
from mmdmformer.engine.runtime import positive
from mmdmformer.mixers import DynamicTokenAttention

MIXERS = {
    'softmax': dict(activation='softmax', position='none'),
    'scaling': dict(activation='scaling', position='none'),
    'depth-wise': dict(activation='none', kernel='depthwise', position='none'),
    'softmax, relative': dict(activation='softmax'),
    'scaling, relative': dict(activation='scaling'),
    'depth-wise, relative': dict(activation='none', kernel='depthwise'),
}


@dataclass
class Row:
    """Times of a mixer for a number of tokens.

    Attributes:
        name (str): Key of ``MIXERS``.
        side (int): Sides of the square grid of tokens.
        seconds (list[float]): One for each repetition.
        peak_bytes (int): Memory that a pass allocated at most beside the
            weights and the input.
    """

    name: str
    side: int
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def num_tokens(self) -> int:
        """Number of tokens."""
        return self.side**2

    @property
    def median(self) -> float:
        """Median time in seconds."""
        return statistics.median(self.seconds)


def measure(
    side: int,
    names: Iterable[str],
    embed_dims: int = 384,
    num_heads: int = 6,
    training: bool = False,
    device: str = 'cpu',
    repetitions: int = 7,
    max_bytes: float = 1e9,
    on_step: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Measure mixers in turn, on one image of random tokens.

    Args:
        side (int): Sides of the square grid of tokens.
        names (Iterable[str]): Keys of ``MIXERS``.
        embed_dims (int): Channels. Defaults to 384, DeiT-S's.
        num_heads (int): Heads. Defaults to 6, DeiT-S's.
        training (bool): Whether a pass goes backward too. Defaults to False.
        device (str): Such as ``'cpu'`` or ``'cuda'``. Defaults to 'cpu'.
        repetitions (int): How often each is measured. Defaults to 7.
        max_bytes (float): A mixer whose matrix of relative positions would
            take more is left out. Defaults to 1e9.
        on_step (Callable): Called after each pass.

    Returns:
        list[Row]: One for each mixer that is not left out.

    Raises:
        KeyError: If a name is unknown.
    """
    x = torch.rand(1, side**2, embed_dims, device=device)
    rows = [Row(n, side) for n in names if _matrix_bytes(n, side, num_heads) <= max_bytes]
    passes = []
    for row in rows:
        torch.manual_seed(0)
        mixer = DynamicTokenAttention(embed_dims, num_heads, (side, side), **MIXERS[row.name])
        passes.append(_make_pass(mixer.to(device), x, training))
        passes[-1]()  # fills caches
        row.peak_bytes = measure_peak_bytes(passes[-1], device)
        on_step()
    times = interleave(passes, repetitions, device, on_step)
    for row, seconds in zip(rows, times, strict=True):
        row.seconds = seconds
    return rows


def num_steps(
    side: int,
    names: Iterable[str],
    num_heads: int = 6,
    repetitions: int = 7,
    max_bytes: float = 1e9,
) -> int:
    """How often :func:`measure` calls ``on_step``."""
    kept = [n for n in names if _matrix_bytes(n, side, num_heads) <= max_bytes]
    return len(kept) * (repetitions + 1)


def _matrix_bytes(name: str, side: int, num_heads: int) -> int:
    """Bytes of the relative positions' matrix, which softmax alone needs at any size."""
    return 4 * num_heads * side**4 if name == 'softmax, relative' else 0


def _make_pass(mixer: nn.Module, x: torch.Tensor, training: bool) -> Callable[[], object]:
    def infer() -> None:
        with torch.inference_mode():
            mixer(x)

    def train() -> None:
        mixer.zero_grad()
        mixer(x).mean().backward()

    return train if training else infer


def make_table(rows: Sequence[Row]) -> str:
    """Make a Markdown table.

    Args:
        rows (Sequence[Row]): The measurements.

    Returns:
        str: The table.
    """
    softmax = {r.side: r.median for r in rows if r.name == 'softmax'}
    lines = [
        '| tokens | mixer | median ms | min to max ms | time / softmax | peak MB |',
        '| ---: | --- | ---: | ---: | ---: | ---: |',
    ]
    for r in rows:
        low, high = min(r.seconds) * 1e3, max(r.seconds) * 1e3
        ratio = f'{r.median / softmax[r.side]:.2f}' if r.side in softmax else ''
        lines.append(
            f'| {r.num_tokens} | {r.name} | {r.median * 1e3:.2f} | {low:.2f} to {high:.2f} '
            f'| {ratio} | {r.peak_bytes / 1e6:.1f} |'
        )
    return '\n'.join(lines)


def write_csv(rows: Sequence[Row], path: str | Path) -> None:
    """Write a line for each mixer and number of tokens, with every repetition.

    Args:
        rows (Sequence[Row]): The measurements.
        path (str | Path): The file.
    """
    repetitions = max(len(r.seconds) for r in rows)
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file)
        header = ['tokens', 'name', 'median_s', 'peak_bytes']
        writer.writerow(header + [f'seconds_{i + 1}' for i in range(repetitions)])
        for r in rows:
            times = [f'{t:.6f}' for t in (r.median, *r.seconds)]
            writer.writerow([r.num_tokens, r.name, times[0], r.peak_bytes, *times[1:]])


def plot(rows: Sequence[Row], path: str | Path, title: str) -> None:
    """Draw medians with the range of the repetitions, and peak memory, over the tokens.

    Args:
        rows (Sequence[Row]): The measurements.
        path (str | Path): The picture.
        title (str): What they were made on.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout='constrained')
    times, memory = figure.subplots(1, 2)
    for i, name in enumerate(dict.fromkeys(r.name for r in rows)):
        own = [r for r in rows if r.name == name]
        tokens = [r.num_tokens for r in own]
        style = dict(color=f'C{i % 3}', linestyle='--' if 'relative' in name else '-', label=name)
        times.plot(tokens, [r.median * 1e3 for r in own], marker='o', **style)
        low = [min(r.seconds) * 1e3 for r in own]
        high = [max(r.seconds) * 1e3 for r in own]
        times.fill_between(tokens, low, high, color=style['color'], alpha=0.2)
        memory.plot(tokens, [r.peak_bytes / 1e6 for r in own], marker='o', **style)
    for axes, label in ((times, 'ms'), (memory, 'peak MB')):
        axes.set(xscale='log', yscale='log', xlabel='tokens', ylabel=label)
    times.legend(fontsize=8)
    figure.suptitle(title, fontsize=8)
    figure.savefig(path, dpi=120)


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
        choices=MIXERS,
        default=list(MIXERS),
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
            steps = num_steps(side, args.mixers, **options)
            task = progress.add_task(f'{side}x{side} tokens', total=steps)
            rows += measure(
                side,
                args.mixers,
                training=args.training,
                device=args.device,
                on_step=lambda task=task: progress.advance(task),
                **options,
            )
    machine = describe_machine(args.device, channels_last=False)
    text = f'Measured on {machine}, with `python {" ".join(sys.argv)}`.\n\n'
    text += make_table(rows) + '\n'
    (out / 'table.md').write_text(text)
    write_csv(rows, out / 'times.csv')
    plot(rows, out / 'times.png', machine)
    print(text)
    print(f'wrote table.md, times.csv and times.png to {out}')


if __name__ == '__main__':
    main()
