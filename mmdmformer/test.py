# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Test a model of any OpenMMLab toolbox: ``python -m mmdmformer.test CONFIG CHECKPOINT``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import BaseMetric, DumpResults
from mmengine.registry import METRICS
from mmengine.runner import Runner

from .checkpoints import complete_weights
from .datasets.missing import missing_data_named
from .engine import runtime
from .engine.model import toolbox_of
from .engine.runner_parts import bare_model

_PICKLE_SUFFIXES = ('.pkl', '.pickle')


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Test as the command line says.

    Args:
        args (Sequence[str], optional): Command line arguments. Defaults to ``sys.argv[1:]``.

    Returns:
        dict[str, float]: The metrics.

    Raises:
        SystemExit: With code 2, after one sentence on stderr, for a user's mistake.
    """
    options = _parser().parse_args(args)
    with runtime.one_sentence_errors():
        cfg = test_config(options)
        metrics = run_test(cfg, [] if options.out is None else [_dump(cfg, options.out)])
        runtime.leave_distributed()
    return metrics


def run_test(cfg: Config, metrics: Sequence[BaseMetric] = ()) -> dict[str, float]:
    """Test a model.

    Args:
        cfg (Config): Of :func:`test_config`.
        metrics (Sequence[BaseMetric]): More metrics than the config names.

    Returns:
        dict[str, float]: The metrics' numbers.

    Raises:
        runtime.UsageError: If data are missing.
    """
    with missing_data_named(cfg, 'test'):
        runner = runtime.build_runner(cfg)
        # Within test(), as hooks must be ready: mmengine's averaged weights take the file too.
        runner.load_checkpoint = partial(_load_complete, runner, runner.load_checkpoint)
        evaluator = runner.test_evaluator
        evaluator.metrics.extend(metrics)
        evaluator.dataset_meta = evaluator.dataset_meta  # which hands it to the new ones
        return runner.test()


def _load_complete(runner: Runner, load: Callable, checkpoint: str) -> dict:
    with complete_weights(bare_model(runner.model), checkpoint):
        return load(checkpoint, strict=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='mmdmformer.test', description='Test a model.')
    runtime.add_common_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to this file')
    parser.add_argument('--show-dir', help='directory to save drawings of the predictions to')
    parser.add_argument(
        '--interval',
        type=runtime.positive,
        default=1,
        metavar='N',
        help='draw every Nth image (default: %(default)s)',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help="test-time augmentation by the config's tta_model and tta_pipeline",
    )
    return parser


def test_config(options: argparse.Namespace) -> Config:
    """The config of a test run.

    Args:
        options (argparse.Namespace): The parsed command line.

    Returns:
        Config: Ready for a runner.

    Raises:
        runtime.UsageError: If an option cannot work with this config.
    """
    runtime.check_checkpoint(options.checkpoint)
    if options.out is not None and not options.out.endswith(_PICKLE_SUFFIXES):
        raise runtime.UsageError(f'--out {options.out} must end with .pkl or .pickle.')
    cfg = runtime.load_config(options)
    # A run that was resumed says so in the config that it dumps.
    cfg.load_from, cfg.resume = options.checkpoint, False
    chosen = 'the checkpoint to test'
    runtime.require_kept(cfg, options.cfg_options, dict(load_from=chosen, resume=chosen))
    if options.tta:
        _augment(cfg, options.config)
    if options.show_dir is not None:
        _draw(cfg, options.config, Path(options.show_dir).absolute(), options.interval)
    return cfg


def _augment(cfg: Config, name: str) -> None:
    """Put the test-time augmentation of the config around its model and into its data."""
    if cfg.get('tta_model') is None or cfg.get('tta_pipeline') is None:
        raise runtime.UsageError(
            f'--tta needs tta_model and tta_pipeline, and {name} does not define them: add them.'
        )
    # Not dict(**...): a pure Python config could not be dumped then.
    model, cfg.model = cfg.model, cfg.tta_model.copy()
    cfg.model.module = model
    for dataset in _read_datasets(cfg.test_dataloader.dataset):
        dataset['pipeline'] = cfg.tta_pipeline
    _add_hook(cfg, type='AverageUnderTTAHook')


def _read_datasets(dataset: dict) -> Iterator[dict]:
    """The settings of the data sets that read files, which wrappers may hold (one, or several)."""
    inner = [dataset['dataset']] if 'dataset' in dataset else dataset.get('datasets')
    if not inner:
        yield dataset
    for each in inner or ():
        yield from _read_datasets(each)


def _draw(cfg: Config, name: str, folder: Path, interval: int) -> None:
    """Let a hook draw test images into ``folder``."""
    if cfg.get('visualizer') is None:
        raise runtime.UsageError(
            f"--show-dir needs the toolbox's visualizer, and {name} does not define it: add it."
        )
    _add_hook(cfg, type='DrawPredictionsHook', out_dir=str(folder), interval=interval)


def _add_hook(cfg: Config, **hook: Any) -> None:
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def _dump(cfg: Config, path: str):
    """The metric that writes predictions to ``path``."""
    # mmdet's own encodes masks, which would fill memory and disk otherwise.
    metrics = dict(mmdet='mmdet.DumpDetResults', mmseg=_DumpLabels)
    metric = metrics.get(toolbox_of(cfg) or '', DumpResults)
    return METRICS.build(dict(type=metric, out_file_path=path))


class _DumpLabels(DumpResults):
    """Writes labels of pixels without the scores, which take 400 GB for ADE20K's 2,000 images."""

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        kept = [{k: v for k, v in sample.items() if k != 'seg_logits'} for sample in data_samples]
        super().process(data_batch, kept)


if __name__ == '__main__':
    main()
