# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""How an ACmix network divides its operators between attention and convolution.

Each operator adds ``alpha`` times its attention path and ``beta`` times its convolution path
(:mod:`mmdmformer.mixers.acmix`). Over the depth of a trained network the two tell which path it
relies on where (the paper's figure 5).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from mmdmformer.checkpoints import find_weights, read_checkpoint
from mmdmformer.engine import runtime
from mmdmformer.engine.runtime import UsageError

NAMES = ('.rates.alpha', '.rates.beta')


@dataclass
class PathRates:
    """Rates of one operator.

    Attributes:
        operator (str): The operator's name in the network.
        alpha (float): Rate of the attention path; NaN if it is not learned.
        beta (float): Rate of the convolution path; NaN if it is not learned.
    """

    operator: str
    alpha: float = math.nan
    beta: float = math.nan


def read_path_rates(checkpoint: str | Path) -> list[PathRates]:
    """Read the rates of all ACmix operators in a checkpoint.

    Args:
        checkpoint (str | Path): File or URL.

    Returns:
        list[PathRates]: One for each operator, from the first to the last.

    Raises:
        UsageError: If the file does not exist or holds no rates.
    """
    if '://' not in str(checkpoint) and not Path(checkpoint).is_file():
        raise UsageError(f'checkpoint {checkpoint} does not exist: check the path.')
    content = read_checkpoint(checkpoint)
    rates = find_path_rates(find_weights(content))
    if not rates:
        raise UsageError(
            f'{checkpoint} holds no rates of ACmix operators (names that end in '
            f'{" or ".join(NAMES)}): take a checkpoint of an ACmix network that learns them.'
        )
    return rates


def find_path_rates(weights: Mapping[str, Tensor]) -> list[PathRates]:
    """Find the rates among a network's weights.

    Args:
        weights (Mapping[str, Tensor]): State dict, whose order is that of the network's parts.

    Returns:
        list[PathRates]: One for each operator, in the order of the weights.

    Examples:
        >>> import torch
        >>> find_path_rates({'stage.0.attn.rates.alpha': torch.ones(1),
        ...                  'stage.0.attn.rates.beta': torch.zeros(1)})
        [PathRates(operator='stage.0.attn', alpha=1.0, beta=0.0)]
    """
    found: dict[str, PathRates] = {}
    for name, value in weights.items():
        for ending in NAMES:
            if name.endswith(ending):
                operator = name.removesuffix(ending)
                rates = found.setdefault(operator, PathRates(operator))
                setattr(rates, ending.rpartition('.')[2], value.item())
    return list(found.values())


def format_path_rates(rates: Sequence[PathRates]) -> str:
    """Write rates as a table of text.

    Args:
        rates (Sequence[PathRates]): Rates from the first operator to the last.

    Returns:
        str: A header and a line for each operator; '-' where a rate is not learned.
    """
    rows = [('depth', 'operator', 'alpha (attention)', 'beta (convolution)')]
    for depth, r in enumerate(rates, 1):
        shown = ('-' if math.isnan(rate) else f'{rate:.4f}' for rate in (r.alpha, r.beta))
        rows.append((str(depth), r.operator, *shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        f'{depth:>{widths[0]}}  {operator:{widths[1]}}  {alpha:>{widths[2]}}  {beta:>{widths[3]}}'
        for depth, operator, alpha, beta in rows
    )


def plot_path_rates(rates: Sequence[PathRates], path: str | Path, title: str) -> None:
    """Draw both rates against the depth of the operator.

    Args:
        rates (Sequence[PathRates]): Rates from the first operator to the last.
        path (str | Path): Picture to write; folders are made.
        title (str): Title of the picture.
    """
    figure = Figure(figsize=(9, 4), layout='constrained')
    axis = figure.subplots()
    depths = np.arange(1, len(rates) + 1)
    axis.plot(depths, [r.alpha for r in rates], 'o-', label='alpha (attention)')
    axis.plot(depths, [r.beta for r in rates], 's-', label='beta (convolution)')
    axis.axhline(0, color='gray', linewidth=0.8)
    axis.set(title=title, xlabel='operator, from input to output', ylabel='rate')
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='file or URL of a checkpoint of an ACmix network')
    parser.add_argument(
        '--out',
        type=runtime.picture,
        metavar='PICTURE',
        help='the plot (default: work_dirs/path_rates/<checkpoint name>.png)',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    name = Path(args.checkpoint).stem
    out = args.out or Path('work_dirs', 'path_rates', f'{name}.png')
    with runtime.one_sentence_errors():
        rates = read_path_rates(args.checkpoint)
    print(format_path_rates(rates))
    plot_path_rates(rates, out, name)
    print(f'\nwrote {out}')


if __name__ == '__main__':
    main()
