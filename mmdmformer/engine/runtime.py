# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Common parts of training and testing: from the command line to a runner.

A user's mistake (a path that does not exist, an option that cannot work here) is raised as
:class:`UsageError` before anything is built, and :func:`one_sentence_errors` turns it into one
sentence on stderr.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import gc
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import MODELS, RUNNERS
from mmengine.runner import Runner

from ..compat import prepare, require_toolbox
from ..compat.checkpoint import CheckpointError, allow_records
from ..compat.environment import TOOLBOXES
from ..datasets.bad_input import BadInputError
from ..registry import did_you_mean
from .config_errors import ConfigFault
from .cpu_distributed import distribute_on_cpu
from .errors import UsageError
from .hooks.non_finite import NonFiniteError
from .hooks.signals import EXIT_CODE, Interrupted
from .model import toolbox_of
from .overrides import CfgOptions, check_names, merge_options, value_at

PICTURES = ('.png', '.jpg', '.pdf')
_HOOKS_OF_MMENGINE = (
    'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'
)  # fmt: skip
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Print an error that ends a run as one line on stderr.

    A user's mistake, a full disk and losses that are not finite exit with code 2, a
    scheduler's signal with code 75, after which the run can be started again. An error of what a
    config was building ends in the setting that it comes from.
    """
    try:
        yield
        return
    except Interrupted:
        pass
    except Exception as error:
        sentence = _explain(error)
        if sentence is None:
            raise
        print(f'error: {sentence}', file=sys.stderr)
        raise SystemExit(2) from None
    # Outside of the except clause, as its error holds on to the runner.
    leave_distributed()
    raise SystemExit(EXIT_CODE)


def _explain(error: Exception) -> str | None:
    """What ends a run, in one sentence; None where only a traceback says it."""
    if isinstance(error, (UsageError, CheckpointError, BadInputError, NonFiniteError)):
        return str(error)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        where = f' for {error.filename}' if error.filename else ''
        return (
            f'there is no room on the disk{where} ({error.strerror}): make room and start again '
            'with --resume; the checkpoints written before are unharmed.'
        )
    fault = ConfigFault(error)
    sentence = fault.explain()
    if sentence is not None and not fault.is_certain:
        traceback.print_exc()
    return sentence


def positive(text: str) -> int:
    """Read a number of a command line that must be 1 or more, as a ``type`` of argparse.

    Args:
        text (str): What was typed.

    Returns:
        int: The number.

    Raises:
        argparse.ArgumentTypeError: If it is another.

    Examples:
        >>> positive('2')
        2
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'it must be a whole number of 1 or more, not {text}')
    return int(text)


def picture(text: str) -> str:
    """Read the name of a figure to write, as a ``type`` of argparse.

    Args:
        text (str): What was typed.

    Returns:
        str: The same.

    Raises:
        argparse.ArgumentTypeError: If it ends in no format that can be written.

    Examples:
        >>> picture('plots/loss.pdf')
        'plots/loss.pdf'
    """
    if not text.lower().endswith(PICTURES):
        raise argparse.ArgumentTypeError(f'{text} must end in one of {", ".join(PICTURES)}')
    return text


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing have in common, named as in OpenMMLab."""
    parser.add_argument('config', help='config file of any OpenMMLab toolbox')
    parser.add_argument(
        '--work-dir',
        help='directory to save logs and checkpoints to (default: work_dirs/<config name>)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='change settings of the config: train_dataloader.batch_size=4; a list as key="[a,b]" '
        'or key=a,b',
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='what started the processes (pytorch: torchrun, as tools/dist_*.sh do)',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def parse_allowing(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line of a tool that reads checkpoints of others.

    Args:
        parser (argparse.ArgumentParser): It is given ``--allow``, whose classes are then read as
            records.

    Returns:
        argparse.Namespace: What was typed.
    """
    parser.add_argument(
        '--allow',
        nargs='+',
        default=(),
        metavar='TYPE',
        help='classes whose objects the checkpoint may hold beside weights; none of their code '
        'runs, and nothing of them is kept',
    )
    args = parser.parse_args()
    allow_records(args.allow)
    return args


def load_config(args: argparse.Namespace) -> Config:
    """Read the config that the command line names and apply the common arguments.

    Args:
        args (argparse.Namespace): Parsed arguments of :func:`add_common_arguments`.

    Returns:
        Config: With ``work_dir`` and ``launcher`` set, and ready for the launcher.

    Raises:
        UsageError: If the file, the toolbox or an option is missing or cannot work here.
    """
    cfg = read_config_file(Path(args.config), args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', Path(args.config).stem)
    if toolbox_of(cfg) == 'mmpretrain':
        _set_mmpretrain_dataloader_defaults(cfg)
    _leave_out_hooks(cfg)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    prepare_launcher(cfg, args.launcher)
    require_kept(cfg, args.cfg_options, {'work_dir': '--work-dir'})
    return cfg


def require_kept(cfg: Config, options: dict[str, Any] | None, arguments: dict[str, str]) -> None:
    """Refuse settings of ``--cfg-options`` that arguments have set otherwise."""
    for key, argument in arguments.items():
        if options and key in options and value_at(cfg, key) != options[key]:
            raise UsageError(
                f'--cfg-options {key}={options[key]} would change nothing, as {argument} sets it '
                f'to {value_at(cfg, key)}: leave one of them out.'
            )


def _leave_out_hooks(cfg: Config) -> None:
    """Let None leave any hook out; mmengine asserts that only its own are."""
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name not in _HOOKS_OF_MMENGINE:
            del hooks[name]


def read_config_file(path: Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config and what ``--cfg-options`` changes in it, as a tool that has called `prepare`.

    Args:
        path (Path): Config file of any OpenMMLab toolbox.
        options (dict, optional): Settings to change, by their dotted names. Defaults to None.

    Returns:
        Config: The config.

    Raises:
        UsageError: If the file, one of its bases or the toolbox is missing, or an option does not
            fit the config.
    """
    prepare()
    options = options or {}
    cfg = _read_config(path)
    scope = options.get('default_scope', cfg.get('default_scope'))
    if not isinstance(scope, str | None):
        raise UsageError(f'default_scope of {path} must name a toolbox, not be {scope!r}.')
    _require_scope(scope, path)
    try:
        require_toolbox(scope)
    except ImportError as error:
        raise UsageError(error) from error
    merge_options(cfg, options, path)
    check_names(cfg, path)
    return cfg


def _require_scope(scope: str | None, path: Path) -> None:
    """Raise unless a scope is a toolbox, or what a config's imports have registered."""
    if scope is None or scope in {'mmengine', *TOOLBOXES, *MODELS.children}:
        return
    if scope.isidentifier() and find_spec(scope) is not None:
        return
    raise UsageError(
        f'default_scope={scope!r} of {path} is no toolbox: {did_you_mean(scope, TOOLBOXES)}'
    )


def _read_config(path: Path) -> Config:
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob('*.py')] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f'did you mean {close[0]}?' if close else 'check the path.'
        raise UsageError(f'config file {path} does not exist: {hint}')
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is code, which can fail in any way
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            raise  # the config itself imports something that is missing: show where
        cause = ' '.join(f'{type(error).__name__}: {error}'.split())
        raise UsageError(
            f'config file {path} cannot be read ({cause}): correct it, or the file of its _base_ '
            'where that is.'
        ) from error


def _set_mmpretrain_dataloader_defaults(cfg: Config) -> None:
    """Give dataloaders what mmpretrain's own tools give them, as its configs rely on it."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)


def prepare_launcher(cfg: Config, launcher: str) -> None:
    """Set ``cfg.launcher``, and make several processes work where there is no GPU.

    With a GPU mmengine's runner does everything itself.

    Args:
        cfg (Config): Changed in place.
        launcher (str): ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        UsageError: If the processes were not started by this launcher, or are more than the GPUs.
    """
    cfg.launcher = launcher
    if launcher == 'none':
        return
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise UsageError(
            '--launcher pytorch needs processes started by torchrun: use '
            'tools/dist_train.sh or tools/dist_test.sh.'
        )
    if get_device() == 'cpu':
        if launcher != 'pytorch':
            raise UsageError(
                f'--launcher {launcher} needs a GPU and none is visible: use --launcher pytorch.'
            )
        distribute_on_cpu(cfg)
        return
    processes, gpus = int(os.environ.get('LOCAL_WORLD_SIZE', 1)), torch.cuda.device_count()
    if torch.cuda.is_available() and processes > gpus:
        raise UsageError(
            f'{processes} processes were started on a machine with {gpus} visible '
            f'GPU{"s" * (gpus != 1)}: start at most one for each GPU.'
        )


def check_checkpoint(path: str | None) -> None:
    """Raise a :class:`UsageError` unless ``path`` is None, an address or an existing file."""
    if path is not None and '://' not in path and not Path(path).is_file():
        raise UsageError(f'checkpoint {path} does not exist: check the path.')


def build_runner(cfg: Config) -> Runner:
    """Build the runner that a config asks for: mmengine's, or the one that ``runner_type`` names.

    Raises:
        UsageError: If a setting of the config cannot be.
    """
    check_checkpoint(cfg.get('load_from'))
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def leave_distributed() -> None:
    """End torch.distributed in good order; gloo's threads can abort a process that just exits.

    They end with the last reference to the process group, and so nothing may hold on to the runner,
    whose model wrapper has one.
    """
    if torch.distributed.is_initialized():
        gc.collect()  # runner, loops and hooks refer to each other
        torch.distributed.destroy_process_group()
