# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Learning rate, momentum and weight decay of a training run in every iteration.

mmengine's own optimizer, schedulers, data loader and loop are built and stepped as its runner
does. Only the images and the gradients are left out, so that neither data nor a GPU is needed.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import ParamSchedulerHook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapperDict
from mmengine.registry import DATA_SAMPLERS, DATASETS, DefaultScope
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from rich.progress import Progress
from torch import nn

from ..datasets.layouts import ADE20K, COCO, IMAGENET, layout_of
from ..datasets.missing import missing_data, with_data_root
from ..engine.batch_size import describe_batch_size, global_batch_size
from ..engine.errors import UsageError
from ..engine.model import build_model, toolbox_of
from ..registry import type_name

QUANTITIES = ('learning rate', 'momentum', 'weight decay')


@dataclass
class ParameterGroup:
    """Parameters that share all settings of the optimizer.

    Attributes:
        names (list[str]): Names in the model.
        num_parameters (int): Number of scalars.
        settings (dict): The optimizer's settings at the start, such as ``lr`` and ``betas``.
    """

    names: list[str]
    num_parameters: int
    settings: dict


@dataclass
class Schedule:
    """A training run's length and the settings of its optimizer in every iteration.

    Attributes:
        images (int): Number of training images.
        source (str): Where that number comes from.
        gpus (int): Number of processes.
        batch_size (int): Images in a step of the optimizer, all processes together.
        epoch_length (float): Iterations in a pass over the images. A whole number in
            epoch-based training; where the sampler never ends, images / images in an iteration.
        num_iterations (int): Length of the run.
        groups (list[ParameterGroup]): The different parameter groups.
        values (dict[str, np.ndarray]): For each of :data:`QUANTITIES` an array of shape
            (groups, iterations); momentum is the first of Adam's betas, NaN if there is none.
        events (dict[int, str]): What happens in which iteration, counted from 1 as in logs.
        note (str | None): How the learning rate fits the global batch, if it needs a word.
    """

    images: int
    source: str
    gpus: int
    batch_size: int
    epoch_length: float
    num_iterations: int
    groups: list[ParameterGroup]
    values: dict[str, np.ndarray]
    events: dict[int, str]
    note: str | None

    @property
    def num_epochs(self) -> float:
        """Passes over the images."""
        return self.num_iterations / self.epoch_length


# The number of images


def _published_size(settings: dict) -> tuple[int, str] | None:
    """Size of the training sets that the papers use, from the settings of the data set."""
    found = layout_of(settings)
    if found is None or found[0] not in _TRAINING_SPLITS:
        return None
    layout = found[0]
    key, split = _TRAINING_SPLITS[layout]
    if split not in str(settings.get(key)):
        return None
    number, source = layout.files[0].count, f"published size of {layout.name}'s training set"
    if layout is COCO and (settings.get('filter_cfg') or {}).get('filter_empty_gt'):
        # Of train2017's 118,287 images 1,021 have no annotation (cocodataset/cocoapi issue 76; the
        # log in facebookresearch/detectron2 issue 1134 counts the same 117,266 that are left), and
        # none has a side below mmdet's usual min_size of 32 pixels.
        return number - 1_021, f'{source}, less 1,021 images without objects'
    return number, source


# Which setting tells that a data set reads a layout's training images, and what it holds then.
_TRAINING_SPLITS = {
    IMAGENET: ('split', 'train'),
    COCO: ('ann_file', 'instances_train2017.json'),
    ADE20K: ('data_prefix', 'images/training'),
}


def count_training_images(cfg: Config) -> tuple[int, str]:
    """Count a config's training images, or know their number where the data are not present.

    Args:
        cfg (Config): Config of any OpenMMLab toolbox.

    Returns:
        tuple[int, str]: The number after the data set's own filters, and where it comes from.

    Raises:
        UsageError: If the data are neither present nor those of the papers.
    """
    settings = cfg.train_dataloader.dataset
    missing = [data for data in with_data_root(settings) if not Path(data['data_root']).is_dir()]
    if not missing:
        with DefaultScope.overwrite_default_scope(toolbox_of(cfg)):
            return len(DATASETS.build(settings)), 'counted'
    published = _published_size(settings)
    if published is None:
        raise UsageError(missing_data(missing[0]))
    number, source = published
    return number, f'{source}; {settings.data_root} is not present'


class _Blank:
    """Stands in for a data set: as many samples, but no content."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length


def _sampler_class(settings: dict) -> type:
    kind = settings['type']
    if isinstance(kind, str):
        with DATA_SAMPLERS.switch_scope_and_registry(None) as samplers:  # a toolbox's own as well
            kind = samplers.get(kind)
    return kind


def _is_endless(sampler: type) -> bool:
    """Whether a sampler never ends, as mmengine's and mmdet's that mixes several sources."""
    return any(base.__name__ in ('InfiniteSampler', 'MultiSourceSampler') for base in sampler.mro())


def _share(images: int, sampler: type, gpus: int) -> int:
    """How many images one process alone must have for as many iterations as with ``gpus``.

    mmengine's samplers give each process an equal share of the images, rounded up; the first
    process has as much where they do not round. An infinite sampler's length is that of the
    whole set.
    """
    return images if _is_endless(sampler) else math.ceil(images / gpus)


# Stepping


class _Planner(Runner):
    """mmengine's runner as far as it decides on the schedule; it writes no file.

    Args:
        cfg (Config): Config of the run.
        images (int): Number of training images.
        gpus (int): Number of processes.
    """

    def __init__(self, cfg: Config, images: int, gpus: int) -> None:
        self.cfg = cfg
        self.logger = MMLogger.get_current_instance()
        self.model = build_model(cfg)
        self._world_size, self._seed, self.auto_scale_lr = gpus, 0, cfg.get('auto_scale_lr')
        self._hooks: list = []
        self.optim_wrapper = cfg.optim_wrapper
        self._randomness_cfg: dict = {}
        self._train_dataloader = self._blank_dataloader(images)
        self._train_loop = self.build_train_loop(cfg.train_cfg)
        self.optim_wrapper = self.build_optim_wrapper(_on_cpu(cfg.optim_wrapper))
        if isinstance(self.optim_wrapper, OptimWrapperDict):
            raise UsageError('only one optimizer can be shown, and this config has several.')
        self.param_schedulers = None
        self.scale_lr(self.optim_wrapper, self.auto_scale_lr)
        self.groups = self._merge_groups()
        if cfg.get('param_scheduler') is not None:
            self.param_schedulers = self.build_param_scheduler(cfg.param_scheduler)

    def _blank_dataloader(self, images: int) -> dict:
        loader = {**self.cfg.train_dataloader, 'num_workers': 0, 'persistent_workers': False}
        loader.pop('prefetch_factor', None)
        sampler = _sampler_class(loader['sampler'])
        loader['dataset'] = _Blank(_share(images, sampler, self._world_size))
        if _is_endless(sampler):  # what it draws does not matter
            loader['sampler'] = dict(type=InfiniteSampler)
        return loader

    def _merge_groups(self) -> list[ParameterGroup]:
        """Leave one parameter of each different group in the optimizer.

        mmengine makes a group of each parameter, and to step hundreds takes minutes.
        """
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        merged, first = {}, []
        for group in self.optim_wrapper.optimizer.param_groups:
            # Text and lists are labels that some constructors add.
            settings = {k: v for k, v in group.items() if not isinstance(v, (str, list))}
            key = repr(sorted(settings.items()))
            if key not in merged:
                merged[key] = ParameterGroup([], 0, settings)
                # A plain dict is several times faster than mmengine's.
                first.append({**group, 'params': [nn.Parameter(torch.zeros(()))]})
            merged[key].names += [names[id(parameter)] for parameter in group['params']]
            merged[key].num_parameters += sum(p.numel() for p in group['params'])
        self.optim_wrapper.optimizer.param_groups[:] = first
        return list(merged.values())

    def step_through(self, quiet: bool) -> dict[str, np.ndarray]:
        """Step the schedulers as in training, and record what the optimizer is set to."""
        loop: BaseLoop = self._train_loop
        groups = self.optim_wrapper.optimizer.param_groups
        values = np.empty((len(QUANTITIES), len(groups), loop.max_iters))
        epoch_length = loop.max_iters // loop.max_epochs  # a loop over iterations is one epoch
        hook = ParamSchedulerHook()
        if hasattr(self.optim_wrapper.optimizer, 'train'):
            self.optim_wrapper.optimizer.train()  # those without a schedule refuse a step else
        self.optim_wrapper.step()  # schedulers warn if they come before the optimizer
        with Progress(disable=quiet) as progress:
            for i in progress.track(range(loop.max_iters), description='stepping'):
                for k, group in enumerate(groups):
                    values[:, k, i] = group['lr'], _momentum(group), group.get('weight_decay', 0)
                hook.after_train_iter(self, i)
                if (i + 1) % epoch_length == 0:
                    hook.after_train_epoch(self)
        return dict(zip(QUANTITIES, values, strict=True))

    def find_events(self) -> dict[int, str]:
        """Iterations, counted from 1, in which the schedule changes its course."""
        loop: BaseLoop = self._train_loop
        last = loop.max_iters
        epoch_length = last // loop.max_epochs
        events = {}
        for scheduler in self.param_schedulers or ():
            unit = epoch_length if scheduler.by_epoch else 1
            if scheduler.begin == 0 and scheduler.end * unit < last:
                events[scheduler.end * unit] = 'end of warm-up'
            for milestone in getattr(scheduler, 'milestones', ()):
                events[(scheduler.begin + milestone) * unit + 1] = 'milestone'
        events.update({1: 'start', max(1, last // 2): 'middle', last: 'last'})
        return {i: events[i] for i in sorted(events) if i <= last}


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keep to errors what mmengine writes into its log: a line for each parameter."""
    name = f'schedule {time.time_ns()}'
    MMLogger.get_instance(name, log_level=logging.ERROR)
    try:
        yield
    finally:
        del MMLogger._instance_dict[name]


def _on_cpu(optim_wrapper: dict) -> dict:
    """Without mixed precision, which changes no schedule and cannot be built without a GPU."""
    settings = dict(optim_wrapper)
    if type_name(settings.get('type', '')) == 'AmpOptimWrapper':
        settings['type'] = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            settings.pop(key, None)
    return settings


def _momentum(group: dict) -> float:
    return group['betas'][0] if 'betas' in group else group.get('momentum', math.nan)


def compute_schedule(
    cfg: Config, gpus: int = 1, images: tuple[int, str] | None = None, quiet: bool = False
) -> Schedule:
    """Step through a config's training without training.

    Args:
        cfg (Config): Config of any OpenMMLab toolbox.
        gpus (int): Number of processes. Defaults to 1.
        images (tuple[int, str], optional): Number of training images and where it comes from.
            Defaults to what :func:`count_training_images` finds.
        quiet (bool): Whether to show no progress. Defaults to False.

    Returns:
        Schedule: The run's length, and the optimizer's settings in every iteration.

    Raises:
        UsageError: If the number of images cannot be known, or there are several optimizers.
    """
    number, source = images or count_training_images(cfg)
    with DefaultScope.overwrite_default_scope(toolbox_of(cfg)), _quiet_log():
        planner = _Planner(cfg, number, gpus)
        values = planner.step_through(quiet)
    loop = planner._train_loop
    endless = isinstance(loop.dataloader.sampler, InfiniteSampler)
    per_iteration = gpus * cfg.train_dataloader.batch_size
    note = describe_batch_size(cfg, gpus)
    return Schedule(
        images=number,
        source=source,
        gpus=gpus,
        batch_size=global_batch_size(cfg, gpus),
        epoch_length=number / per_iteration if endless else len(loop.dataloader),
        num_iterations=loop.max_iters,
        groups=planner.groups,
        values=values,
        events=planner.find_events(),
        note=note and note[1],
    )


def gpus_in_name(path: str | Path) -> int:
    """Number of GPUs that OpenMMLab's scheme puts into a config's name.

    Args:
        path (str | Path): Config file.

    Returns:
        int: The number, or 1 if the name has none.

    Examples:
        >>> gpus_in_name('dmformer-s_8xb128_in1k.py'), gpus_in_name('mine.py')
        (8, 1)
    """
    found = re.search(r'_(\d+)xb\d+', Path(path).stem)
    return int(found.group(1)) if found else 1
