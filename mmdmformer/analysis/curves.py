# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Losses and metrics of training runs, from the scalars that mmengine writes beside its logs.

A run that was resumed has a folder of scalars for each start. They are put together; where two
tell of the same step, the later one counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..engine.runtime import UsageError

SCALARS = '*/vis_data/scalars.json'
POSITIONS = ('epoch', 'iter', 'step')


@dataclass
class Run:
    """The scalars of a run.

    Attributes:
        name (str): The run's folder.
        curves (dict): For each key the values by step.
        by_epoch (set[str]): Keys whose steps are epochs; those of the others
            are iterations.
        validations (set[str]): Keys that validations gave.
    """

    name: str
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    by_epoch: set[str] = field(default_factory=set)
    validations: set[str] = field(default_factory=set)


def read_run(folder: str | Path) -> Run:
    """Read the scalars of all starts of a run.

    Args:
        folder (str | Path): The run's ``work_dir``.

    Returns:
        Run: Its curves, each with rising steps.

    Raises:
        UsageError: If there are no scalars, or a file cannot be read.
    """
    # The folders are named by the time of their start.
    files = sorted(Path(folder).glob(SCALARS))
    rows = [row for file in files for row in _read_rows(file)]
    if not rows:
        raise UsageError(
            f'no scalars are in {folder}: give the work_dir of a run, which has a directory '
            f'with {SCALARS.removeprefix("*/")} for each start.'
        )
    run = Run(str(folder))
    counts_epochs = any('epoch' in row for row in rows)
    for row in rows:
        for key, value in row.items():
            if key in POSITIONS or not isinstance(value, (int, float)):
                continue
            run.curves.setdefault(key, {})[row['step']] = float(value)
            if 'iter' not in row:
                run.validations.add(key)
    # mmengine gives validations the epoch for a step where training counts epochs
    run.by_epoch = run.validations if counts_epochs else set()
    run.curves = {key: dict(sorted(curve.items())) for key, curve in run.curves.items()}
    return run


def _read_rows(file: Path) -> list[dict]:
    rows = []
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            row['step'] = int(row['step'])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # a run that is killed may leave half a line
            raise UsageError(
                f'line {number} of {file} is no record of scalars: remove the line.'
            ) from error
        rows.append(row)
    return rows


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Average each value with those before it.

    Args:
        values (Sequence[float]): The values.
        window (int): How many are averaged; fewer at the beginning.

    Returns:
        np.ndarray: As many values.

    Examples:
        >>> smooth([4, 2, 0, 0], 2).tolist()
        [4.0, 3.0, 1.0, 0.0]
    """
    starts = [max(0, end - window) for end in range(1, len(values) + 1)]
    return np.array([np.mean(values[start : i + 1]) for i, start in enumerate(starts)])


def plot(runs: Sequence[Run], keys: Sequence[str], window: int = 1) -> Figure:
    """Draw a panel for each key, with a curve for each run that has it.

    Args:
        runs (Sequence[Run]): The runs.
        keys (Sequence[str]): Names of losses and metrics.
        window (int): Curves of training are averages over so many values; with
            more than one, the values themselves are drawn in a lighter tone.
            Defaults to 1.

    Returns:
        Figure: The figure.

    Raises:
        UsageError: If no run has a key.
    """
    known = sorted({key for run in runs for key in run.curves})
    for key in keys:
        if key not in known:
            raise UsageError(f'no run has the key {key}: there are {", ".join(known)}.')
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), layout='constrained')
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(keys) :]:
        axis.axis('off')
    for axis, key in zip(axes.flat, keys, strict=False):
        for i, run in enumerate(runs):
            curve = run.curves.get(key)
            if curve is None:
                continue
            steps, values = list(curve), list(curve.values())
            shown: Sequence[float] | np.ndarray = values
            style = dict(color=f'C{i}', marker='o' * (len(steps) < 20), markersize=3)
            if window > 1 and key not in run.validations:
                axis.plot(steps, values, color=f'C{i}', alpha=0.25, linewidth=0.8)
                shown = smooth(values, window)
            axis.plot(steps, shown, label=run.name, linewidth=1.3, **style)
        units = {
            'epoch' if key in run.by_epoch else 'iteration' for run in runs if key in run.curves
        }
        axis.set(title=key, xlabel=' or '.join(sorted(units)))
        axis.grid(alpha=0.3)
        axis.legend(fontsize='small')
    return figure
