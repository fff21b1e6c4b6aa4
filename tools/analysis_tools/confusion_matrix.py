# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Draw the confusion matrix of a classifier, detector or segmentor, by its toolbox's own tool.

What follows the config are that tool's arguments: for a classifier a checkpoint and --show-path
FILE, else the file of `tools/test.py --out` and a folder to write to.
"""

import argparse
import pickle
import runpy
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmdmformer.engine import runtime
from mmdmformer.engine.model import toolbox_of

TOOL = '.mim/tools/analysis_tools/confusion_matrix.py'
TOOLBOXES = 'mmpretrain', 'mmdet', 'mmseg'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help="the toolbox's tool's")
    args = parser.parse_args()
    with runtime.one_sentence_errors():
        cfg = runtime.read_config_file(args.config)
        toolbox = toolbox_of(cfg)
        if toolbox not in TOOLBOXES:
            raise runtime.UsageError(
                f'{args.config} is of {toolbox}: give a config of {", ".join(TOOLBOXES)}.'
            )
        tool = Path(find_spec(toolbox).origin).parent / TOOL
        if toolbox == 'mmseg':
            draw_segmentation(cfg, tool, args.arguments)
            return
        if not cfg.get('default_scope') and '--cfg-options' not in args.arguments:
            args.arguments += ['--cfg-options', f'default_scope={toolbox}']
        sys.argv = [str(tool), str(args.config), *args.arguments]
        runpy.run_path(str(tool), run_name='__main__')


def draw_segmentation(cfg: Config, tool: Path, arguments: list[str]) -> None:
    """Count here and draw with mmseg's function.

    Counts of mmseg 1.2's own tool are wrong: it multiplies labels of 8 bits by the number of
    classes, pairs files in the order of names with images in that of the data set, and takes
    ``reduce_zero_label`` off twice.
    """
    parser = argparse.ArgumentParser(prog='confusion_matrix.py CONFIG')
    parser.add_argument('predictions', type=Path, help='the file of tools/test.py --out')
    parser.add_argument('save_dir', help='folder to write to')
    parser.add_argument('--title', default='Normalized Confusion Matrix')
    parser.add_argument('--color-theme', default='winter')
    args = parser.parse_args(arguments)
    if not args.predictions.is_file():
        raise runtime.UsageError(
            f'{args.predictions} does not exist: write it with tools/test.py CONFIG CHECKPOINT '
            f'--out {args.predictions}.'
        )
    functions = runpy.run_path(str(tool))  # sets mmseg's scope as well
    classes = DATASETS.build({**cfg.test_dataloader.dataset, 'lazy_init': True}).metainfo['classes']
    ignored = cfg.test_evaluator.get('ignore_index', 255)
    with args.predictions.open('rb') as file:
        matrix = count_pixels(pickle.load(file), len(classes), ignored)
    functions['plot_confusion_matrix'](
        matrix, classes, args.save_dir, show=False, title=args.title, color_theme=args.color_theme
    )


def count_pixels(samples: Iterable[dict], num_classes: int, ignored: int) -> np.ndarray:
    """Count pixels by annotated and predicted class.

    Args:
        samples (Iterable[dict]): As ``tools/test.py --out`` writes them.
        num_classes (int): How many classes there are.
        ignored (int): The annotated label that is not counted.

    Returns:
        np.ndarray: Counts of shape (annotated, predicted), int64.
    """
    counts = np.zeros(num_classes**2, np.int64)
    for sample in samples:
        annotated, predicted = (
            sample[name]['data'].numpy().astype(np.int64).ravel()
            for name in ('gt_sem_seg', 'pred_sem_seg')
        )
        pairs = (num_classes * annotated + predicted)[annotated != ignored]
        counts += np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


if __name__ == '__main__':
    main()
