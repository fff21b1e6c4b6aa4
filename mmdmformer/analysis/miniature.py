# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer-nano beside its ablations and other networks of its size, trained alike from scratch.

It is the papers' comparison in miniature: every network is trained for classification, and from
that checkpoint for Semantic FPN, on the built-in data, with several seeds. A run that is in the
results file is not repeated.
"""

from __future__ import annotations

import importlib
import json
import math
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch
from mmengine.config import Config

from .. import train
from ..datasets import SEG_CLASSES, make_mini_data
from ..engine.model import build_model
from ..engine.runtime import UsageError, read_config_file
from .benchmark import interleave
from .multiply_adds import count_multiply_adds

BASELINE = 'DMFormer'
SCENES = 8  # images of a step of segmentation
INFERENCE_BATCH, REPETITIONS = 8, 15


@dataclass(frozen=True)
class Network:
    """A backbone of about the parameters of DMFormer-nano.

    Attributes:
        backbone (dict): Its config, with the outputs of all four stages.
        channels (Sequence[int]): Channels of these.
    """

    backbone: dict
    channels: Sequence[int]


def _dmformer(depths: Sequence[int], **options: object) -> Network:
    widths = (16, 32, 80, 128)
    arch = dict(embed_dims=widths, depths=tuple(depths), ffn_ratios=(8, 8, 4, 4))
    backbone = dict(type='DMFormer', arch=arch, out_indices=(0, 1, 2, 3), **options)
    return Network(backbone, widths)


def _toolbox(
    name: str, channels: Sequence[int], init_cfg: list[dict] | None, **options: object
) -> Network:
    # Some of mmpretrain's networks freeze their stem or first stage unless they are told not to.
    backbone = dict(type=f'mmpretrain.{name}', out_indices=(0, 1, 2, 3), frozen_stages=-1)
    if init_cfg is not None:
        backbone['init_cfg'] = init_cfg
    return Network({**backbone, **options}, channels)


def _init_cfg(layers: Sequence[str], norm: str) -> list[dict]:
    """How mmpretrain's configs initialise the classifiers of a network."""
    return [
        dict(type='TruncNormal', layer=list(layers), std=0.02, bias=0.0),
        dict(type='Constant', layer=[norm], val=1.0, bias=0.0),
    ]


# Blocks are added where a network would be too small. Layer scales begin with DMFormer's 1e-2: the
# networks' own 1e-5 and 1e-6 are for longer training.
NETWORKS = {
    BASELINE: _dmformer((1, 1, 2, 1)),
    'no expansion': _dmformer((1, 1, 5, 1), expand_ratio=1),
    'single 7x7': _dmformer((1, 2, 2, 1), kernel_sizes=(7,), dilations=(3,)),
    'no dilation': _dmformer((1, 1, 2, 1), dilations=(1, 1, 1)),
    'no residual': _dmformer((1, 1, 2, 1), residual=False),
    'no gate': _dmformer((1, 2, 2, 1), gate=False),
    'VAN': _toolbox(
        'VAN',
        (16, 32, 80, 128),
        _init_cfg(['Linear'], 'LayerNorm'),
        arch=dict(embed_dims=(16, 32, 80, 128), depths=(1, 1, 4, 2), ffn_ratios=(8, 8, 4, 4)),
    ),
    'Swin': _toolbox(
        'SwinTransformer',
        (18, 36, 72, 144),
        _init_cfg(['Linear'], 'LayerNorm'),
        arch=dict(embed_dims=18, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8)),
        drop_path_rate=0.0,
        pad_small_map=True,
    ),
    'ConvNeXt': _toolbox(
        'ConvNeXt',
        (20, 40, 80, 160),
        None,
        arch=dict(channels=(20, 40, 80, 160), depths=(2, 2, 6, 2)),
        layer_scale_init_value=1e-2,
        gap_before_final_norm=False,
    ),
    'PoolFormer': _toolbox(
        'PoolFormer',
        (16, 32, 80, 128),
        _init_cfg(['Conv2d', 'Linear'], 'GroupNorm'),
        arch=dict(embed_dims=(16, 32, 80, 128), layers=(2, 2, 6, 3), layer_scale_init_value=1e-2),
        out_indices=(0, 2, 4, 6),
    ),
    'ResNet': _toolbox(
        'ResNet', (48, 96, 192, 384), None, depth=50, base_channels=12, stem_channels=16
    ),
}


@dataclass(frozen=True)
class Task:
    """What a network is trained for.

    Attributes:
        config (str): The leaf whose backbone is replaced.
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
    """What all runs have in common beside the settings of the leaves.

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


# Training


@dataclass(frozen=True)
class Folders:
    """Where everything lies.

    Attributes:
        repository (Path): Where the configs are.
        data (Path): The built-in data of this study.
        work (Path): Configs, logs and checkpoints of the runs.
    """

    repository: Path
    data: Path
    work: Path

    def of_run(self, run: Run) -> Path:
        """The folder of a run."""
        return self.work / f'seed-{run.seed}' / run.network.replace(' ', '-') / run.task

    def checkpoint(self, run: Run) -> Path:
        """The weights that a run leaves."""
        return self.of_run(run) / 'final.pth'


def make_data(recipe: Recipe, folder: Path) -> None:
    """Write the built-in data with as many images as the recipe says, or check that it is there."""
    make_mini_data(
        folder,
        classification=(recipe.images, recipe.val_images),
        segmentation=(recipe.images, recipe.val_scenes),
        detection=(10, 10),
    )


def make_config(run: Run, recipe: Recipe, folders: Folders) -> Config:
    """The config of a run: the task's leaf with another backbone, length, size and data.

    Args:
        run (Run): Which.
        recipe (Recipe): What all runs have in common.
        folders (Folders): Where everything lies.

    Returns:
        Config: For the training entry.
    """
    task, network = TASKS[run.task], NETWORKS[run.network]
    variables = dict(data_root=str(folders.data / task.data), num_workers=0)
    if run.task == 'classification':
        length = recipe.epochs
        variables.update(image_size=task.side, max_epochs=length)
        options = {'model.head.in_channels': network.channels[-1]}
        weights = {}
    else:
        length = recipe.iterations
        variables.update(image_scale=(task.side,) * 2, max_iters=length, batch_size=SCENES)
        options = {
            'model.neck.in_channels': list(network.channels),
            'model.decode_head.loss_decode': _balanced_loss(SCENES * task.side**2),
        }
        checkpoint = folders.checkpoint(replace(run, task='classification'))
        weights = dict(init_cfg=dict(type='CheckedPretrained', checkpoint=str(checkpoint)))
    cfg = read_config_file(folders.repository / task.config, variables)
    cfg.merge_from_dict(
        {
            **options,
            'model.backbone': dict(_delete_=True, **{**network.backbone, **weights}),
            'randomness.seed': run.seed,
            'train_cfg.val_interval': length,
            'default_hooks.checkpoint': dict(interval=length, max_keep_ckpts=1, save_best=None),
            'default_hooks.logger.interval': 5,
        }
    )
    return cfg


def _balanced_loss(pixels: int) -> dict:
    """Cross-entropy in which the background, most of the pixels, counts a fifth.

    Otherwise hundreds of steps teach nothing but the background. mmseg's mean cannot have weights
    and ignored pixels at once, so a batch's sum is divided by about its sum of weights.
    """
    weights = [0.2] + [1.0] * (len(SEG_CLASSES) - 1)
    loss = dict(type='CrossEntropyLoss', reduction='sum', class_weight=weights)
    return dict(_delete_=True, **loss, loss_weight=3 / pixels)


def all_runs(networks: Sequence[str], tasks: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """List runs seed by seed, so that what is finished early is balanced.

    Examples:
        >>> [run.network for run in all_runs(['VAN', 'Swin'], ['classification'], [0, 1])]
        ['VAN', 'Swin', 'VAN', 'Swin']
    """
    return [Run(seed, name, task) for seed in seeds for name in networks for task in tasks]


def missing_runs(runs: Sequence[Run], study: Study, folders: Folders) -> list[Run]:
    """The runs that are not finished, each after the run whose checkpoint it starts from."""
    done = {result.run for result in study.results}
    missing = []
    for run in runs:
        first = replace(run, task='classification')
        if run in done or run in missing:
            continue
        if run != first and first not in missing and not folders.checkpoint(first).is_file():
            missing.append(first)
        missing.append(run)
    return missing


def train_missing(
    runs: Sequence[Run],
    study: Study,
    path: Path,
    folders: Folders,
    minutes: float = math.inf,
    echo: Callable[[str], None] = print,
) -> None:
    """Train what is missing, and write down each result.

    Args:
        runs (Sequence[Run]): All that is wanted.
        study (Study): What there is; the results are added.
        path (Path): The results file.
        folders (Folders): Where everything lies.
        minutes (float): No run is begun that would end later, judged by the longest so far.
            Defaults to no limit.
        echo (Callable): Gets a line of progress for each run. Defaults to ``print``.
    """
    missing = missing_runs(runs, study, folders)
    for part in product(('mmpretrain', 'mmseg'), ('models', 'datasets', 'evaluation')):
        importlib.import_module('.'.join(part))  # for all trainings, which are forked from here
    start = time.monotonic()
    durations: list[float] = []
    for run in missing:
        begin = time.monotonic()
        if begin - start + max(durations, default=0) > 60 * minutes:
            return
        result = train_run(run, study.recipe, folders)
        study.add(result)
        study.write(path)
        durations.append(time.monotonic() - begin)
        left = (len(missing) - len(durations)) * statistics.mean(durations) / 60
        echo(
            f'[{len(durations)}/{len(missing)}] seed {run.seed}, {run.network}, {run.task}: '
            f'{TASKS[run.task].metric_title} {result.metric:.1f} % '
            f'in {durations[-1]:.0f} s; {left:.0f} min left'
        )


def train_run(run: Run, recipe: Recipe, folders: Folders) -> Result:
    """Train once, with the project's training entry in a process of its own.

    What an interrupted run has left is removed before.

    Returns:
        Result: What it gave.

    Raises:
        RuntimeError: If the training fails; the message ends with the end of its log.
    """
    folder = folders.of_run(run)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config, log = folder / 'config.py', folder / 'output.log'
    make_config(run, recipe, folders).dump(config)
    process = multiprocessing.get_context('fork').Process(
        target=_train, args=(config, log), daemon=True
    )
    before = _seconds_of_children()
    process.start()
    process.join()
    if process.exitcode:
        tail = ''.join(log.read_text().splitlines(keepends=True)[-20:])
        raise RuntimeError(f'the training of {config} failed; the end of {log}:\n{tail}')
    seconds = _seconds_of_children() - before
    Path((folder / 'last_checkpoint').read_text()).replace(folders.checkpoint(run))
    return Result(run, round(read_metric(folder, TASKS[run.task].metric), 2), round(seconds, 1))


def _train(config: Path, log: Path) -> None:
    with log.open('w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    train.main([str(config), '--work-dir', str(config.parent)])


def _seconds_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def read_metric(folder: Path, metric: str) -> float:
    """Read the last value of a metric from the scalars that mmengine wrote.

    Args:
        folder (Path): Work folder of a training.
        metric (str): Such as ``'mIoU'``.

    Returns:
        float: The value.
    """
    (scalars,) = folder.glob('*/vis_data/scalars.json')
    values = [json.loads(line).get(metric) for line in scalars.read_text().splitlines()]
    return [value for value in values if value is not None][-1]


# Costs


def measure_costs(
    networks: Sequence[str],
    recipe: Recipe,
    folders: Folders,
    repetitions: int = REPETITIONS,
    on_step: Callable[[], object] = lambda: None,
) -> list[Cost]:
    """Count and time the models of all tasks, with untrained weights.

    Args:
        networks (Sequence[str]): Keys of :data:`NETWORKS`.
        recipe (Recipe): What all runs have in common.
        folders (Folders): Where everything lies.
        repetitions (int): How often each is timed, in turn. Defaults to 15.
        on_step (Callable): Called after each timing.

    Returns:
        list[Cost]: One for each network and task.
    """
    runs = all_runs(networks, list(TASKS), [0])
    models = [build_model(make_config(run, recipe, folders)).eval() for run in runs]
    times = interleave(
        [
            _inference(model, torch.rand(INFERENCE_BATCH, 3, *[TASKS[run.task].side] * 2))
            for run, model in zip(runs, models, strict=True)
        ],
        repetitions,
        on_step=on_step,
    )
    return [
        Cost(
            run.network,
            run.task,
            _num_parameters(model.backbone),
            _num_parameters(model),
            count_multiply_adds(model, (TASKS[run.task].side,) * 2),
            [round(1e3 * t, 3) for t in seconds],
        )
        for run, model, seconds in zip(runs, models, times, strict=True)
    ]


def _inference(model: torch.nn.Module, images: torch.Tensor) -> Callable[[], None]:
    def infer() -> None:
        with torch.inference_mode():
            model(images, mode='tensor')

    return infer


def _num_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
