# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Plot the confusion matrix of a classifier, detector or segmentor by its toolbox's own tool.

What follows the config are that tool's arguments: for a classifier a checkpoint and --show-path
FILE, for a detector the file of `tools/test.py --out` and an output directory. Segmentors are
tested anew: give a checkpoint and the folder.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric

from mmdmformer import test
from mmdmformer.engine import runtime
from mmdmformer.engine.model import toolbox_of
from mmdmformer.engine.overrides import CfgOptions

TOOL = '.mim/tools/analysis_tools/confusion_matrix.py'
TOOLBOXES = 'mmpretrain', 'mmdet', 'mmseg'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument(
        'arguments', nargs=argparse.REMAINDER, help="arguments of the toolbox's tool"
    )
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
            draw_segmentation(args.config, tool, args.arguments)
            return
        if not cfg.get('default_scope') and '--cfg-options' not in args.arguments:
            args.arguments += ['--cfg-options', f'default_scope={toolbox}']
        sys.argv = [str(tool), str(args.config), *args.arguments]
        runpy.run_path(str(tool), run_name='__main__')


def draw_segmentation(config: Path, tool: Path, arguments: list[str]) -> None:
    """Count here and draw with mmseg's function.

    Counts of mmseg 1.2's own tool are wrong: it multiplies labels of 8 bits by the number of
    classes, pairs files in the order of names with images in that of the data set, and takes
    ``reduce_zero_label`` off twice.
    """
    parser = argparse.ArgumentParser(prog=f'confusion_matrix.py {config}')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('save_dir', help='output directory')
    parser.add_argument('--title', default='Normalized Confusion Matrix')
    parser.add_argument('--color-theme', default='winter')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    args = parser.parse_args(arguments)
    command = test._parser().parse_args([str(config), args.checkpoint])
    command.cfg_options = args.cfg_options
    cfg = test.test_config(command)
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    pixels = PixelMatrix(next((m['ignore_index'] for m in metrics if 'ignore_index' in m), 255))
    test.run_test(cfg, [pixels])
    draw = runpy.run_path(str(tool))['plot_confusion_matrix']
    classes = pixels.dataset_meta['classes']
    draw(
        pixels.matrix,
        classes,
        args.save_dir,
        show=False,
        title=args.title,
        color_theme=args.color_theme,
    )


class PixelMatrix(BaseMetric):
    """Counts pixels by annotated and predicted class.

    Args:
        ignored (int): The annotated label that is not counted.

    Attributes:
        matrix (np.ndarray): Counts of shape (annotated, predicted), int64, after the test.
    """

    def __init__(self, ignored: int) -> None:
        super().__init__()
        self.ignored = ignored

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch."""
        num_classes = len(self.dataset_meta['classes'])
        for sample in data_samples:
            annotated, predicted = (
                sample[name]['data'].cpu().numpy().astype(np.int64).ravel()
                for name in ('gt_sem_seg', 'pred_sem_seg')
            )
            pairs = (num_classes * annotated + predicted)[annotated != self.ignored]
            counts = np.bincount(pairs, minlength=num_classes**2)
            self.results.append(counts.reshape(num_classes, num_classes))

    def compute_metrics(self, results: list[np.ndarray]) -> dict:
        """Keep the sum over all images."""
        self.matrix = sum(results)
        return {}


if __name__ == '__main__':
    main()
