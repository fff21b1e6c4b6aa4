# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Report on this machine: what is installed, what is here, and whether a config can train."""

import logging
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.utils.dl_utils import collect_env
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import train
from .compat import report
from .datasets.layouts import LAYOUTS, Layout, layout_of
from .datasets.missing import missing_data, with_data_root
from .engine import runtime
from .engine.batch_size import describe_batch_size
from .engine.model import toolbox_of
from .registry import type_name

# Of mmengine's report; the rest is reported in more words, or how torch was compiled.
_COLLECTED = 'sys.platform', 'Python', 'CUDA_HOME', 'NVCC', 'GCC', 'MSVC', 'OpenCV'
_PRETRAINED = 'Pretrained', 'PretrainedInit', 'CheckedPretrained', 'CheckedPretrainedInit'


@dataclass(frozen=True)
class Line:
    """A line of the report.

    Attributes:
        name (str): What it is about.
        text (str): What was found.
        good (bool | None): Whether that is as it should be; None where it is neither.
    """

    name: str
    text: str
    good: bool | None = None


@dataclass
class Report:
    """What :func:`examine` found.

    Attributes:
        sections (dict[str, list[Line]]): The lines of each section.
        obstacle (str | None): Why the config cannot train here, in one sentence.
    """

    sections: dict[str, list[Line]] = field(default_factory=dict)
    obstacle: str | None = None


def examine(
    config: str | None = None,
    options: Sequence[str] = (),
    *,
    layouts: Sequence[Layout] = LAYOUTS,
    quiet: bool = False,
) -> Report:
    """Examine this machine.

    Args:
        config (str, optional): A config file that is to train here. Defaults to None.
        options (Sequence[str]): Options of ``tools/train.py`` that it is to train with.
        layouts (Sequence[Layout]): The data sets to look for.
        quiet (bool): Show no progress. Defaults to False.

    Returns:
        Report: What is here, and with ``config`` why it cannot train.

    Raises:
        SystemExit: If ``options`` are not those of ``tools/train.py``.
    """

    @cache  # ImageNet's files are counted once, for the report and for the config
    def find_faults(layout: Layout, root: Path) -> list[str]:
        return layout.find_faults(root, quiet)

    cfg, obstacle = None, None
    places = [(layout, Path(layout.root)) for layout in layouts]
    if config is not None:
        try:
            cfg = train.training_config(train._parser().parse_args([config, *options]))
            _require_operators(cfg)
            _require_checkpoints(cfg)
            for dataset in _datasets(cfg):
                expected = layout_of(dataset, layouts)
                if expected is not None and expected not in places:
                    places.append(expected)
                _require_data(dataset, expected, find_faults)
            _require_annotations(cfg)
        except runtime.UsageError as error:
            obstacle = str(error)
    sections = {
        'Installed': _installed(),
        'GPUs': _gpus(),
        'Data': [_data_line(*place, find_faults(*place)) for place in places],
        'To train': _launch(config, options, cfg),
    }
    return Report(sections, obstacle)


def print_report(found: Report) -> None:
    """Print a report as a table."""
    table = Table.grid(padding=(0, 2))
    colors = {True: 'green', False: 'yellow', None: ''}
    for title, lines in found.sections.items():
        table.add_row(Text(title, style='bold'))
        for line in lines:
            table.add_row(Text(f'  {line.name}'), Text(line.text, style=colors[line.good]))
    Console().print(table)


def _installed() -> list[Line]:
    found = collect_env()
    lines = [Line(name, found[name]) for name in _COLLECTED if name in found]
    for name, version in report.installed_versions().items():
        lines.append(Line(name, version or 'not installed', None if version else False))
    words, work = report.operators()
    return [*lines, Line('stack', report.stack()), Line('mmcv.ops', words, work)]


def _gpus() -> list[Line]:
    built_for = f'torch is built for CUDA {torch.version.cuda}'
    if torch.version.cuda is None:
        built_for = 'torch is built without CUDA'
    if not torch.cuda.is_available():
        return [Line('none', f'no GPU is visible; {built_for}', False)]
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    gpus = [f'{p.name}, {p.total_memory / 2**30:.0f} GiB' for p in properties]
    return [Line(f'GPU {i}', gpu, True) for i, gpu in enumerate(gpus)] + [Line('CUDA', built_for)]


def _data_line(layout: Layout, root: Path, faults: list[str]) -> Line:
    if not root.is_dir():
        text = f'{root} does not exist; make it with `{layout.command(root)}`'
        return Line(layout.name, text, False)
    if faults:
        return Line(layout.name, f'{root} is not complete: {"; ".join(faults)}', False)
    return Line(layout.name, f'{root} is complete: {layout.contents}', True)


def _launch(config: str | None, options: Sequence[str], cfg: Config | None) -> list[Line]:
    """The command that trains with every GPU of this machine, and on Slurm where that is here."""
    gpus = torch.cuda.device_count()
    arguments = ' '.join(map(shlex.quote, options))
    path = 'CONFIG' if config is None else shlex.quote(config)
    command = f'tools/dist_train.sh {path} {gpus}' if gpus > 1 else f'python tools/train.py {path}'
    lines = [Line('here' if gpus else 'on the CPU', f'{command} {arguments}'.rstrip())]
    if shutil.which('srun') is not None:
        command = f'GPUS=8 tools/slurm_train.sh PARTITION JOB_NAME {path}'
        lines.append(Line('with Slurm', f'{command} {arguments}'.rstrip()))
    remark = describe_batch_size(cfg, max(1, gpus)) if cfg is not None else None
    if remark is not None:
        level, sentence = remark
        lines.append(Line('batch', sentence, None if level < logging.WARNING else False))
    return lines


def _require_operators(cfg: Config) -> None:
    words, work = report.operators()
    if toolbox_of(cfg) == 'mmdet' and not work:
        raise runtime.UsageError(
            f'mmdet needs the operators of mmcv.ops, which are {words}: install the torchvision '
            f'that fits torch {torch.__version__}.'
        )
    for name, called in _called_by(cfg):
        if missing := report.missing_operators(called):
            raise runtime.UsageError(
                f"{name}, which the config's model names, calls mmcv's "
                f'{" and ".join(sorted(missing))}, which neither torchvision nor torch serves: '
                f'{report.how_to_build()}.'
            )


def _called_by(cfg: Config) -> Iterator[tuple[str, Callable]]:
    """The classes and functions of mmcv.ops that a model's config names."""
    registry = import_module(f'{toolbox_of(cfg) or "mmengine"}.registry')
    operators = import_module('mmcv.ops')
    places = registry.MODELS.get, registry.TASK_UTILS.get, vars(operators).get
    for found in _dicts(cfg.get('model')):
        kind = found.get('type')
        if isinstance(kind, str):
            kind = next(filter(None, (find(kind) for find in places)), None)
        if kind is not None:
            yield type_name(found['type']), kind


def _require_checkpoints(cfg: Config) -> None:
    """Raise unless every pretrained file that the config names is there."""
    runtime.check_checkpoint(cfg.get('load_from'))
    for found in _dicts(cfg.get('model')):
        if type_name(found.get('type', '')) in _PRETRAINED:
            runtime.check_checkpoint(found.get('checkpoint'))


def _datasets(cfg: Config) -> list[dict]:
    """The data sets of the config that have a folder."""
    loaders = [cfg.get(f'{split}_dataloader') for split in ('train', 'val', 'test')]
    return [dataset for dataset in with_data_root(loaders) if 'type' in dataset]


def _require_data(
    dataset: dict,
    expected: tuple[Layout, Path] | None,
    find_faults: Callable[[Layout, Path], list[str]],
) -> None:
    """Raise unless the data of one data set are where it looks for them."""
    if not Path(dataset['data_root']).is_dir():
        raise runtime.UsageError(missing_data(dataset))
    if expected is None:
        for path in _own_paths(dataset):
            if not path.exists():
                raise runtime.UsageError(
                    f'{path.absolute()}, which {type_name(dataset["type"])} reads, does not exist: '
                    'check data_root, ann_file and data_prefix in the config.'
                )
    elif faults := find_faults(*expected):
        layout, root = expected
        raise runtime.UsageError(
            f'{layout.name} in {root.absolute()} is not complete ({"; ".join(faults)}): complete '
            f'it with `{layout.command(root)}`.'
        )


def _own_paths(dataset: dict) -> Iterator[Path]:
    """The annotation file and the folders of a data set that has none of our layouts."""
    root = Path(dataset['data_root'])
    prefixes = dataset.get('data_prefix') or {}
    prefixes = prefixes.values() if isinstance(prefixes, dict) else [prefixes]
    for name in (dataset.get('ann_file'), *prefixes):
        if name:
            yield root / name


def _require_annotations(cfg: Config) -> None:
    """Raise unless the evaluators find what they compare predictions with."""
    evaluators = [cfg.get(f'{split}_evaluator') for split in ('val', 'test')]
    for metric in _dicts(evaluators):
        path = metric.get('ann_file')
        if path is not None and '://' not in path and not Path(path).is_file():
            raise runtime.UsageError(
                f'{Path(path).absolute()}, which {type_name(metric["type"])} reads, does not '
                'exist: check val_evaluator.ann_file.'
            )


def _dicts(node: Any) -> Iterator[dict]:
    """Yield every dict at or below ``node``."""
    if isinstance(node, dict):
        yield node
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for child in node:
        yield from _dicts(child)
