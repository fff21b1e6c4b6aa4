# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Time and memory of ACmix's parts beside the plain ways to compute the same.

The feature maps' default size is that of a ResNet's first stage for an image of 800x1280 pixels.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor

from mmdmformer.analysis.benchmark import describe_machine, interleave, measure_peak_bytes
from mmdmformer.engine.runtime import positive
from mmdmformer.mixers import ConvolutionPath
from mmdmformer.ops.local_attention import (
    aggregate,
    aggregate_reference,
    pad_by_reflection,
    window_attention,
)

WINDOW, HEADS, SHARE = 7, 4, 8
Operator = Callable[..., Tensor]


@dataclass(frozen=True)
class Row:
    """What one way of computing takes.

    Attributes:
        part (str): What is computed.
        name (str): How.
        forward_seconds (float): Median time of a forward pass.
        training_seconds (float): Of a forward and a backward pass.
        forward_bytes (int): Memory that a forward pass allocates at most
            beside its inputs.
        training_bytes (int): The same of a forward and a backward pass.
    """

    part: str
    name: str
    forward_seconds: float
    training_seconds: float
    forward_bytes: int
    training_bytes: int


def window_attention_by_sums(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Window attention of stride 1 by copied windows, with products and sums for small matrices.

    Args:
        q (Tensor): Queries of shape (B, C, H, W).
        k (Tensor): Keys of the same shape.
        v (Tensor): Values of the same shape.
        num_heads (int): Number of heads.

    Returns:
        Tensor: Output of the same shape.
    """
    keys, values = (
        F.unfold(pad_by_reflection(x, WINDOW // 2), WINDOW).unflatten(1, (num_heads, -1, WINDOW**2))
        for x in (k, v)
    )
    queries = q.unflatten(1, (num_heads, -1)).flatten(3).unsqueeze(3)
    weights = ((queries * keys).sum(2, keepdim=True) * queries.shape[2] ** -0.5).softmax(3)
    return (weights * values).sum(3).reshape(q.shape)


def measure_parts(
    height: int,
    width: int,
    channels: int,
    device: str = 'cpu',
    repetitions: int = 5,
    on_step: Callable[[], object] = lambda: None,
) -> list[Row]:
    """Measure the windowed attention of ResNet, the aggregation of SAN, and the shifts of table 7.

    Args:
        height (int): Height of the maps of one image.
        width (int): Their width.
        channels (int): Their channels, a multiple of 8.
        device (str): Such as ``'cpu'`` or ``'cuda'``. Defaults to 'cpu'.
        repetitions (int): How often each is timed. Defaults to 5.
        on_step (Callable): Called after each timing.

    Returns:
        list[Row]: One for each way of computing a part.
    """
    rows = []
    for part, (inputs, operators) in _parts(height, width, channels, device).items():
        forward = [_run(f, inputs, False) for f in operators.values()]
        training = [_run(f, inputs, True) for f in operators.values()]
        times = interleave(forward + training, repetitions, device, on_step)
        seconds = [median(t) for t in times]
        peaks = [measure_peak_bytes(run, device) for run in forward + training]
        n = len(operators)
        rows += [
            Row(part, name, seconds[i], seconds[n + i], peaks[i], peaks[n + i])
            for i, name in enumerate(operators)
        ]
    return rows


def num_steps(repetitions: int) -> int:
    """How often :func:`measure_parts` calls ``on_step``."""
    return 2 * repetitions * sum(len(f) for _, f in _parts(8, 8, 8, 'cpu').values())


def _parts(
    height: int, width: int, channels: int, device: str
) -> dict[str, tuple[list[Tensor], dict[str, Operator]]]:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, height, width, device=device, requires_grad=True)

    shifts = {
        name: ConvolutionPath(3 * HEADS, channels // HEADS, channels, shift=shift).to(device)
        for name, shift in {
            'moving tensors': 'tensor',
            'fixed kernels': 'fixed',
            'learned kernels': 'learned',
        }.items()
    }
    return {
        'window attention': (
            [random(1, channels) for _ in range(3)],
            {
                'tiles (ours)': lambda q, k, v: window_attention(q, k, v, HEADS, WINDOW),
                'unfold': lambda q, k, v: window_attention_by_sums(q, k, v, HEADS),
            },
        ),
        'SAN aggregation': (
            [random(1, channels // SHARE, WINDOW**2), random(1, channels)],
            {
                'taps (ours)': lambda w, v: aggregate(w, v, WINDOW),
                'unfold': lambda w, v: aggregate_reference(w, v, WINDOW),
            },
        ),
        'convolution path': ([random(1, 3 * channels)], shifts),
    }


def _run(operator: Operator, inputs: list[Tensor], training: bool) -> Callable[[], object]:
    def forward() -> None:
        with torch.inference_mode():
            operator(*inputs)

    def both() -> None:
        torch.autograd.grad(operator(*inputs).sum(), inputs)

    return both if training else forward


def make_table(rows: list[Row]) -> str:
    """Make a Markdown table.

    Args:
        rows (list[Row]): The measurements.

    Returns:
        str: The table.
    """
    lines = [
        '| part | method | forward ms | + backward ms | forward MB | + backward MB |',
        '| --- | --- | ---: | ---: | ---: | ---: |',
    ]
    for r in rows:
        lines.append(
            f'| {r.part} | {r.name} | {r.forward_seconds * 1e3:.0f} '
            f'| {r.training_seconds * 1e3:.0f} | {r.forward_bytes / 1e6:.0f} '
            f'| {r.training_bytes / 1e6:.0f} |'
        )
    return '\n'.join(lines)


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
        task = progress.add_task('timing', total=num_steps(args.repetitions))
        rows = measure_parts(
            *args.size,
            args.channels,
            args.device,
            args.repetitions,
            on_step=lambda: progress.advance(task),
        )
    machine = describe_machine(args.device, channels_last=False)
    print(f'Measured on {machine}, with `python {" ".join(sys.argv)}`.\n')
    print(make_table(rows))


if __name__ == '__main__':
    main()
