# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What the study consists of: tasks, recipe, runs and results, as they are written down."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mmdmformer.engine.runtime import UsageError
from real.networks import NETWORKS

INFERENCE_BATCH = 8


@dataclass(frozen=True)
class Task:
    """What a network is trained for.

    Attributes:
        config (str): The config whose backbone is replaced.
        data (str): Data root, below the folder of the built-in data.
        side (int): Sides of the images in pixels.
        metric (str): As the toolbox's evaluator names it, in per cent.
        metric_title (str): For people.
    """

    config: str
    data: str
    side: int
    metric: str
    metric_title: str


TASKS = {
    'classification': Task(
        'configs/mini/dmformer-nano_mini-imagenet.py', 'imagenet', 48, 'accuracy/top1', 'top-1'
    ),
    'segmentation': Task(
        'configs/mini/dmformer-nano_sem-fpn_mini-ade20k.py',
        'ade/ADEChallengeData2016',
        64,
        'mIoU',
        'mIoU',
    ),
}


@dataclass(frozen=True)
class Recipe:
    """What all runs have in common beside the settings of the configs.

    Attributes:
        images (int): Training images of each task.
        val_images (int): Validation images for classification.
        val_scenes (int): Validation images for segmentation.
        epochs (int): Passes over the images in classification.
        iterations (int): Steps in segmentation.

    Raises:
        UsageError: If the classification ends before its rate is warm.
    """

    images: int = 1000
    val_images: int = 1000
    val_scenes: int = 150
    epochs: int = 8
    iterations: int = 400

    def __post_init__(self) -> None:
        if self.epochs < 2:
            raise UsageError(
                f'epochs must be at least 2, not {self.epochs}: in the first one the rate rises.'
            )


@dataclass(frozen=True, order=True)
class Run:
    """One training: of a network, for a task, from a seed."""

    seed: int
    network: str
    task: str


@dataclass(frozen=True)
class Result:
    """What a run gave.

    Attributes:
        run (Run): Which.
        metric (float): On the validation images after the last step, in per cent.
        cpu_seconds (float): Processor time of training, reading of images and validation.
    """

    run: Run
    metric: float
    cpu_seconds: float


@dataclass(frozen=True)
class Cost:
    """What a network costs in a task.

    Attributes:
        network (str): Which.
        task (str): Which.
        backbone_parameters (int): Parameters of the backbone.
        parameters (int): Parameters of the whole model.
        multiply_adds (int): Of the whole model, for one image.
        inference_ms (list[float]): Milliseconds for a batch of :data:`INFERENCE_BATCH` images.
    """

    network: str
    task: str
    backbone_parameters: int
    parameters: int
    multiply_adds: int
    inference_ms: list[float]


@dataclass
class Study:
    """All that was measured, as it is written down.

    Attributes:
        recipe (Recipe): What all runs have in common.
        machine (str): Where the costs were measured.
        costs (list[Cost]): One for each network and task.
        results (list[Result]): One for each finished run.
    """

    recipe: Recipe
    machine: str
    costs: list[Cost]
    results: list[Result]

    @classmethod
    def read(cls, path: Path, recipe: Recipe) -> Study:
        """Read a results file, or begin a study if it is not there.

        Raises:
            UsageError: If the file's runs have another recipe.
        """
        if not path.is_file():
            return cls(recipe, '', [], [])
        content = json.loads(path.read_text())
        found = Recipe(**content['recipe'])
        if found != recipe:
            differences = ', '.join(
                f'{name} {value} instead of {asdict(recipe)[name]}'
                for name, value in asdict(found).items()
                if value != asdict(recipe)[name]
            )
            raise UsageError(
                f'the runs in {path} have another recipe ({differences}): give its options, or '
                'another folder with --out.'
            )
        results = [
            Result(Run(r['seed'], r['network'], r['task']), r['metric'], r['cpu_seconds'])
            for r in content['results']
        ]
        return cls(recipe, content['machine'], [Cost(**c) for c in content['costs']], results)

    def write(self, path: Path) -> None:
        """Write the results file, a line for each run; it is replaced all at once."""
        results = [
            dict(**asdict(r.run), metric=r.metric, cpu_seconds=r.cpu_seconds) for r in self.results
        ]
        content = dict(recipe=asdict(self.recipe), machine=self.machine)
        content.update(costs=[asdict(cost) for cost in self.costs], results=results)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix('.partial')
        partial.write_text(_lines(content))
        os.replace(partial, path)

    def add(self, result: Result) -> None:
        """Add a result, in place of an earlier one of the same run."""
        self.results = [r for r in self.results if r.run != result.run] + [result]

    def of(self, network: str, task: str) -> list[Result]:
        """The results of a network in a task, seed by seed."""
        results = [r for r in self.results if (r.run.network, r.run.task) == (network, task)]
        return sorted(results, key=lambda result: result.run)

    def networks(self, task: str | None = None) -> list[str]:
        """The networks that have a result (in a task), in the order of :data:`NETWORKS`."""
        found = {r.run.network for r in self.results if task in (None, r.run.task)}
        return [name for name in NETWORKS if name in found]


def _lines(content: dict) -> str:
    """JSON with one line for each element of the lists."""
    parts = []
    for name, value in content.items():
        text = json.dumps(value)
        if isinstance(value, list):
            text = '[\n' + ',\n'.join(f'  {json.dumps(each)}' for each in value) + '\n ]'
        parts.append(f' "{name}": {text}')
    return '{\n' + ',\n'.join(parts) + '\n}\n'


def all_runs(networks: Sequence[str], tasks: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """List runs seed by seed, so that what is finished early is balanced.

    Examples:
        >>> [run.network for run in all_runs(['VAN', 'Swin'], ['classification'], [0, 1])]
        ['VAN', 'Swin', 'VAN', 'Swin']
    """
    return [Run(seed, name, task) for seed in seeds for name in networks for task in tasks]
