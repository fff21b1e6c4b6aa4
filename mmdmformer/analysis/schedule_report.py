# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A schedule as text and as a plot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .schedule import QUANTITIES, ParameterGroup, Schedule

_MAX_COLUMNS = 4  # for each quantity, in the printed table


def _curves(schedule: Schedule, quantity: str) -> list[tuple[str, np.ndarray]]:
    """The different curves of a quantity, each with the numbers of its groups."""
    values = schedule.values[quantity]
    if np.isnan(values).all():
        return []
    members: dict[bytes, list[int]] = {}
    for number, curve in enumerate(values, 1):
        members.setdefault(curve.tobytes(), []).append(number)
    if len(members) == 1:
        return [('', values[0])]
    return [(_ranges(groups), values[groups[0] - 1]) for groups in members.values()]


def _ranges(groups: list[int]) -> str:
    """Write numbers of groups briefly.

    Examples:
        >>> _ranges([1, 2, 3, 7]), _ranges([1, 3, 5, 7, 9])
        (' of groups 1-3, 7', ' of groups 1, 3, ..., 9')
    """
    runs = np.split(groups, 1 + np.flatnonzero(np.diff(groups) > 1))
    texts = [f'{run[0]}-{run[-1]}' if len(run) > 1 else str(run[0]) for run in runs]
    if len(texts) > 4:
        texts[2:-1] = ['...']
    return f' of group{"s" * (len(groups) > 1)} {", ".join(texts)}'


def format_schedule(schedule: Schedule) -> str:
    """Write a schedule as text: totals, parameter groups, and what changes when.

    Args:
        schedule (Schedule): The schedule.

    Returns:
        str: Several lines.
    """
    s = schedule
    whole = float(s.epoch_length).is_integer()
    a_pass = f'{s.epoch_length:,.0f}' if whole else f'{s.epoch_length:,.1f}'
    images_an_update = f'{s.batch_size:,} images on {s.gpus} GPU{"s" * (s.gpus != 1)}'
    lines = [
        f'training images   {s.images:,} ({s.source})',
        f'global batch      {images_an_update}',
        f'iterations        {a_pass} an epoch, {s.num_iterations:,} in {s.num_epochs:,.4g} epochs',
        *([f'note              {s.note}'] if s.note else []),
        '',
        *_format_table(
            ['group', 'parameters', 'settings', 'names'],
            [_describe_group(number, group) for number, group in enumerate(s.groups, 1)],
        ),
        '',
    ]
    columns = []
    for quantity in QUANTITIES:
        curves = _curves(s, quantity)
        if len(curves) > _MAX_COLUMNS:
            curves = sorted(curves, key=lambda named: named[1].max())
            curves = [curves[0], curves[-1]]
        columns += [(quantity + groups, curve) for groups, curve in curves]
    rows = [
        [f'{i:,}', _epoch(s, i), what, *(f'{curve[i - 1]:.4g}' for _, curve in columns)]
        for i, what in s.events.items()
    ]
    header = ['iteration', 'epoch', '', *(name for name, _ in columns)]
    return '\n'.join(lines + _format_table(header, rows))


def _epoch(schedule: Schedule, iteration: int) -> str:
    """The epoch that an iteration belongs to, or the passes so far where the sampler never ends."""
    length = schedule.epoch_length
    if float(length).is_integer():
        return f'{(iteration - 1) // length + 1:,.0f}'
    return f'{iteration / length:,.1f}'


def _describe_group(number: int, group: ParameterGroup) -> list[str]:
    shown = {key: group.settings.get(key) for key in ('lr', 'betas', 'momentum', 'weight_decay')}
    settings = ', '.join(f'{key} {_brief(v)}' for key, v in shown.items() if v is not None)
    names = group.names
    some = names if len(names) < 3 else [names[0], names[len(names) // 2], f'... ({len(names)})']
    return [str(number), f'{group.num_parameters:,}', settings, ', '.join(some)]


def _brief(value: float | tuple) -> str:
    return f'{value:.4g}' if isinstance(value, (int, float)) else str(value)


def _format_table(header: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def plot_schedule(schedule: Schedule, path: str | Path, title: str) -> None:
    """Draw learning rate, momentum and weight decay against the iteration.

    Args:
        schedule (Schedule): The schedule.
        path (str | Path): File to write; directories are created.
        title (str): Title of the figure.
    """
    shown = [(quantity, _curves(schedule, quantity)) for quantity in QUANTITIES]
    shown = [(quantity, curves) for quantity, curves in shown if curves]
    figure = Figure(figsize=(9, 2 + 2.2 * len(shown)), layout='constrained')
    figure.suptitle(
        f'{title}\n{schedule.images:,} images, global batch {schedule.batch_size:,}, '
        f'{schedule.num_iterations:,} iterations'
    )
    axes = figure.subplots(len(shown), sharex=True, squeeze=False)[:, 0]
    iterations = np.arange(1, schedule.num_iterations + 1)
    for axis, (quantity, curves) in zip(axes, shown, strict=True):
        for groups, curve in curves:
            axis.plot(iterations, curve, label=groups.removeprefix(' of '), linewidth=1.2)
        axis.set_ylabel(quantity)
        axis.yaxis.set_major_formatter('{x:g}')
        axis.set_ylim(-0.03 * axis.get_ylim()[1])  # zero is seen, and is a curve's usual end
        axis.margins(x=0.01)
        axis.grid(alpha=0.3)
        if 1 < len(curves) <= 2 * _MAX_COLUMNS:
            axis.legend(fontsize='small')
        for iteration, what in schedule.events.items():
            if what in ('end of warm-up', 'milestone'):
                axis.axvline(iteration, color='gray', linewidth=0.8, linestyle=':')
    axes[-1].set_xlabel('iteration')
    length = schedule.epoch_length
    epochs = axes[0].secondary_xaxis('top', functions=(lambda i: i / length, lambda e: e * length))
    epochs.set_xlabel('epoch')
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
