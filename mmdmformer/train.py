# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Train a model of any OpenMMLab toolbox: ``python -m mmdmformer.train CONFIG``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.device import get_device

from .checkpoints import find_checkpoint
from .datasets.missing import missing_data_named
from .engine import runtime
from .engine.batch_size import enable_auto_scale_lr
from .registry import type_name

_SET_BY_ARGUMENTS = {
    'resume': '--resume',
    'optim_wrapper.type': '--amp',
    'auto_scale_lr.enable': '--auto-scale-lr',
}


def main(args: Sequence[str] | None = None) -> None:
    """Train as the command line says.

    Args:
        args (Sequence[str], optional): Command line arguments. Defaults to ``sys.argv[1:]``.

    Raises:
        SystemExit: With code 2, after one sentence on stderr, for a user's mistake.
    """
    options = _parser().parse_args(args)
    with runtime.one_sentence_errors():
        cfg = training_config(options)
        with missing_data_named(cfg, 'train', 'val'):
            _train(cfg)
        runtime.leave_distributed()


def _train(cfg: Config) -> None:
    runner = runtime.build_runner(cfg)  # gone when this returns: see leave_distributed
    runner.train()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='mmdmformer.train', description='Train a model.')
    runtime.add_common_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or, if none is given, from the latest in the work '
        'directory if there is one',
    )
    parser.add_argument(
        '--amp', action='store_true', help='train with automatic mixed precision (needs a GPU)'
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by actual batch size / auto_scale_lr.base_batch_size',
    )
    return parser


def training_config(options: argparse.Namespace) -> Config:
    """The config of a training run.

    Args:
        options (argparse.Namespace): The parsed command line.

    Returns:
        Config: Ready for a runner.

    Raises:
        runtime.UsageError: If an option cannot work with this config or on this machine.
    """
    cfg = runtime.load_config(options)
    if options.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if type_name(cfg.optim_wrapper.get('type', '')) == 'AmpOptimWrapper' and get_device() == 'cpu':
        raise runtime.UsageError(
            'mixed precision (--amp, AmpOptimWrapper) needs a GPU and none is visible: '
            'train without it.'
        )
    if options.auto_scale_lr:
        enable_auto_scale_lr(cfg, options.config)
    set_by = dict(_SET_BY_ARGUMENTS)
    if options.resume == 'auto':
        # Before its first checkpoint a run begins as the config says.
        if not cfg.get('load_from') or find_checkpoint(cfg.work_dir):
            cfg.resume, cfg.load_from = True, None
    elif options.resume is not None:
        cfg.resume, cfg.load_from = True, options.resume
        set_by['load_from'] = '--resume'
    runtime.require_kept(cfg, options.cfg_options, set_by)
    return cfg


if __name__ == '__main__':
    main()
