# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Training what is missing of the study, and measuring what the networks cost."""

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
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from mmengine.config import Config

from mini_data import SEG_CLASSES, make_mini_data
from mmdmformer import train
from mmdmformer.analysis.benchmark import interleave
from mmdmformer.analysis.multiply_adds import count_multiply_adds
from mmdmformer.engine.model import build_model
from mmdmformer.engine.runtime import read_config_file
from real.networks import NETWORKS

from .study import INFERENCE_BATCH, TASKS, Cost, Recipe, Result, Run, Study, all_runs

SCENES = 8  # images of a step of segmentation
REPETITIONS = 15


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
    """The config of a run: the task's config with another backbone, length, size and data.

    Args:
        run (Run): Which.
        recipe (Recipe): What all runs have in common.
        folders (Folders): Where everything lies.

    Returns:
        Config: For the training entry.
    """
    task, network = TASKS[run.task], NETWORKS[run.network]
    splits = ('train', 'val', 'test')
    options = {
        f'{split}_dataloader.{key}': value
        for split in splits
        for key, value in {
            'dataset.data_root': str(folders.data / task.data),
            'num_workers': 0,
            'persistent_workers': False,
        }.items()
    }
    pipelines = [f'{split}_dataloader.dataset.pipeline' for split in splits]
    if run.task == 'classification':
        length, first = recipe.epochs, {}
        options['model.head.in_channels'] = network.channels[-1]
        options[f'{pipelines[0]}.1.scale'] = task.side
        for pipeline in pipelines[1:]:
            options[f'{pipeline}.1.scale'] = int(task.side / 0.9)
            options[f'{pipeline}.2.crop_size'] = task.side
    else:
        length, sides = recipe.iterations, (task.side,) * 2
        options['model.neck.in_channels'] = list(network.channels)
        options['model.decode_head.loss_decode'] = _balanced_loss(SCENES * task.side**2)
        options['model.data_preprocessor.size'] = sides
        options[f'{pipelines[0]}.2.scale'] = options[f'{pipelines[0]}.3.crop_size'] = sides
        options.update({f'{pipeline}.1.scale': sides for pipeline in pipelines[1:]})
        options['train_dataloader.batch_size'] = SCENES
        options['auto_scale_lr.base_batch_size'] = SCENES
        checkpoint = folders.checkpoint(replace(run, task='classification'))
        first = dict(init_cfg=dict(type='CheckedPretrained', checkpoint=str(checkpoint)))
    cfg = read_config_file(folders.repository / task.config, options)
    *_, decay = cfg.param_scheduler
    decay.end = length
    if 'T_max' in decay:
        decay.T_max = length - decay.begin
    cfg.train_cfg['max_epochs' if run.task == 'classification' else 'max_iters'] = length
    cfg.merge_from_dict(
        {
            'model.backbone': dict(_delete_=True, **{**network.backbone, **first}),
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
