# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Results of the study on small data: means, spreads, differences, a table and a plot."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from markdown_pages import replace_between
from real.networks import BASELINE, NETWORKS

from .study import INFERENCE_BATCH, TASKS, Cost, Study

BEGIN = '<!-- miniature: made by benchmarks/train_miniature.py -->'
END = '<!-- end of miniature -->'
LEVEL = 0.05  # how likely a task's column names any difference, if there is none at all


@dataclass(frozen=True)
class Difference:
    """How far a network's mean is from the baseline's.

    Attributes:
        value (float): Mean minus the baseline's, in points.
        margin (float): What a difference without meaning hardly exceeds, in points.
    """

    value: float
    margin: float

    @property
    def is_clear(self) -> bool:
        """Whether it is more than the spread of the seeds explains."""
        return abs(self.value) > self.margin


def compare(
    metrics: Mapping[str, Sequence[float]], baseline: str = BASELINE
) -> dict[str, Difference]:
    """Compare all networks with one of them.

    The seeds' standard deviation is taken to be the same for all networks and pooled over them, as
    that of two or three seeds says little. The margin is that of a two-sided t-test at the level
    :data:`LEVEL`, divided by the number of comparisons (Bonferroni).

    Args:
        metrics (Mapping[str, Sequence[float]]): A value for each seed, for each network.
        baseline (str): The one to compare with. Defaults to DMFormer.

    Returns:
        dict[str, Difference]: For all others; none without a baseline or a second seed.

    Examples:
        >>> compare({'DMFormer': [70.0, 72.0], 'Swin': [60.0, 62.0]})['Swin'].value
        -10.0
    """
    freedom = sum(len(values) - 1 for values in metrics.values())
    others = [name for name in metrics if name != baseline]
    if baseline not in metrics or not others or not freedom:
        return {}
    deviations = (v - statistics.mean(values) for values in metrics.values() for v in values)
    pooled = math.sqrt(sum(d**2 for d in deviations) / freedom)
    critical = stats.t.ppf(1 - LEVEL / 2 / len(others), freedom)
    reference = metrics[baseline]
    return {
        name: Difference(
            statistics.mean(metrics[name]) - statistics.mean(reference),
            critical * pooled * math.sqrt(1 / len(metrics[name]) + 1 / len(reference)),
        )
        for name in others
    }


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, which is NaN for one value.

    Examples:
        >>> mean_and_spread([70.0, 72.0, 74.0])
        (72.0, 2.0)
    """
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return statistics.mean(values), spread


def make_table(study: Study) -> str:
    """Write a table for each task, and below what its columns are, in Markdown."""
    tables = [_table_of(study, task) for task in TASKS if study.networks(task)]
    r = study.recipe
    legend = (
        f'{len(study.results)} runs; {r.images:,} training images; classification: {r.epochs} '
        f'epochs at {TASKS["classification"].side} px, {r.val_images:,} validation images; '
        f'segmentation: {r.iterations} iterations at {TASKS["segmentation"].side} px, '
        f'{r.val_scenes} validation images. Mean ± standard deviation of the seeds. Difference: '
        f'from {BASELINE}, in points, with the margin that chance exceeds in {LEVEL:.0%} of such '
        'columns; bold where it is larger. Parameters: of the backbone. Multiply-adds: of the '
        'whole model, for one image. Training: processor time of a run, with reading and '
        f'validation. Inference: median for {INFERENCE_BATCH} images, all models in turn. '
        f'Measured on {study.machine}.'
    )
    return '\n\n'.join([*tables, legend])


def _table_of(study: Study, task: str) -> str:
    title = TASKS[task].metric_title
    metrics = {name: _metrics(study, name, task) for name in study.networks(task)}
    differences = compare(metrics)
    costs = {cost.network: cost for cost in study.costs if cost.task == task}
    lines = [
        f'| {task} | seeds | {title}, % | difference | parameters, M | multiply-adds, M '
        '| training, s | inference, ms |',
        f'| --- |{" ---: |" * 7}',
    ]
    for name, values in metrics.items():
        seconds = [result.cpu_seconds for result in study.of(name, task)]
        cells = [name, str(len(values)), _with_spread(values), _in_bold(differences.get(name))]
        cells += [*_cost_cells(costs.get(name)), f'{statistics.median(seconds):.0f}']
        cells += [f'{statistics.median(costs[name].inference_ms):.1f}' if name in costs else '']
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _metrics(study: Study, network: str, task: str) -> list[float]:
    return [result.metric for result in study.of(network, task)]


def _with_spread(values: Sequence[float]) -> str:
    mean, spread = mean_and_spread(values)
    return f'{mean:.1f}' if math.isnan(spread) else f'{mean:.1f} ± {spread:.1f}'


def _in_bold(difference: Difference | None) -> str:
    if difference is None:
        return ''
    text = f'{difference.value:+.1f} ± {difference.margin:.1f}'
    return f'**{text}**' if difference.is_clear else text


def _cost_cells(cost: Cost | None) -> list[str]:
    if cost is None:
        return ['', '']
    return [f'{cost.backbone_parameters / 1e6:.3f}', f'{cost.multiply_adds / 1e6:.1f}']


def plot(study: Study, path: Path) -> None:
    """Draw the metric over multiply-adds and time of inference, with the seeds' spread.

    Args:
        study (Study): What was measured.
        path (Path): Picture to write.
    """
    tasks = [task for task in TASKS if study.networks(task)]
    figure = Figure(figsize=(10, 4.2 * len(tasks)), layout='constrained')
    panels = figure.subplots(len(tasks), 2, squeeze=False)
    for (left, right), task in zip(panels, tasks, strict=True):
        costs = [cost for cost in study.costs if cost.task == task]
        _scatter(left, study, task, {c.network: c.multiply_adds / 1e6 for c in costs})
        times = {c.network: statistics.median(c.inference_ms) for c in costs}
        _scatter(right, study, task, times)
        left.set_xlabel('million multiply-adds for an image')
        right.set_xlabel(f'ms of inference for {INFERENCE_BATCH} images')
        left.set_ylabel(f'{task}: {TASKS[task].metric_title}, %')
    panels[0][1].legend(fontsize='small')
    figure.suptitle('Built-in data: mean and standard deviation of the seeds', fontsize=10)
    figure.savefig(path, dpi=110)


def _scatter(axes: Axes, study: Study, task: str, cost: Mapping[str, float]) -> None:
    for name in study.networks(task):
        place = list(NETWORKS).index(name)
        mean, spread = mean_and_spread(_metrics(study, name, task))
        # DMFormer and its ablations are round.
        marker = 'o' if place < 6 else 's'
        axes.errorbar(
            cost[name],
            mean,
            0 if math.isnan(spread) else spread,
            fmt=marker,
            markersize=9 if name == BASELINE else 6,
            color=f'C{place}' if place < 10 else 'black',
            capsize=3,
            label=name,
        )
    axes.grid(alpha=0.3)


def write_report(study: Study, folder: Path, page: Path | None = None) -> str:
    """Write ``table.md`` and ``plot.png``, and the table into a page.

    Args:
        study (Study): What was measured.
        folder (Path): Where to write.
        page (Path, optional): A page with the marks :data:`BEGIN` and :data:`END`.
            Defaults to None.

    Returns:
        str: The table.
    """
    table = make_table(study)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'table.md').write_text(table + '\n')
    plot(study, folder / 'plot.png')
    if page is not None:
        page.write_text(replace_between(page.read_text(), BEGIN, END, table))
    return table
