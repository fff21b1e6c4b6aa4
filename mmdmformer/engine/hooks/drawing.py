# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Drawing of predictions, for each of the toolboxes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import mmcv
from mmengine.dist import gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.structures import BaseDataElement

from ...datasets.bad_input import base_datasets


@HOOKS.register_module()
class DrawPredictionsHook(Hook):
    """Draws the predictions of every test image onto the image.

    Drawings are stored in directories as the images are, so that equal names do not overwrite each
    other, and the first of several processes draws for all. The toolboxes' own hooks do neither;
    their settings of how to draw (mmdet's ``score_thr``, mmpretrain's ``rescale_factor`` and the
    like) hold here as well.

    Args:
        out_dir (str): The folder.
        interval (int): Only every so many images, from the first on, are drawn. Defaults to 1.

    Raises:
        ValueError: If ``interval`` is below 1.

    Examples:
        >>> custom_hooks = [dict(type='DrawPredictionsHook', out_dir='pictures', interval=50)]
    """

    priority = 'LOW'

    def __init__(self, out_dir: str, interval: int = 1) -> None:
        if interval < 1:
            raise ValueError(f'interval must be at least 1, but is {interval}.')
        self.out_dir, self.interval = Path(out_dir), interval
        self._count = 0  # images so far, as the last batch may be a smaller one

    def before_test(self, runner) -> None:
        """Count from the first image on."""
        self._count = 0

    def after_test_iter(
        self,
        runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Draw a batch."""
        batches = gather_object([sample.cpu() for sample in outputs or ()])
        if not is_main_process():
            return
        visualizer = runner.visualizer
        draw = getattr(visualizer, 'visualize_cls', None)  # of mmpretrain, which takes no name
        settings = _drawing_settings(runner.hooks)
        roots = _image_folders(runner.test_dataloader.dataset)
        samples = list(chain(*batches))
        first = -self._count % self.interval
        self._count += len(samples)
        for sample in samples[first :: self.interval]:
            image = mmcv.imread(sample.img_path, channel_order='rgb')
            out_file = self.out_dir / _below(Path(sample.img_path).absolute(), roots)
            out_file.parent.mkdir(parents=True, exist_ok=True)
            if draw is not None:
                draw(image, sample, out_file=str(out_file), **settings)
            else:
                visualizer.add_datasample(
                    out_file.stem, image, sample, out_file=str(out_file), **settings
                )


def _drawing_settings(hooks: Sequence[Hook]) -> dict:
    """What the toolbox's own hook would hand to the visualizer."""
    for hook in hooks:
        if hasattr(hook, 'draw_args'):  # mmpretrain's
            return hook.draw_args
        if hasattr(hook, 'score_thr'):  # mmdet's
            return dict(pred_score_thr=hook.score_thr)
    return {}


def _image_folders(dataset) -> list[Path]:
    """The folders that the file names of a data set's images begin with."""
    prefixes = (each.data_prefix for each in base_datasets(dataset))
    names = (prefix.get('img') or prefix.get('img_path') for prefix in prefixes)
    return [Path(name).absolute() for name in names if name]


def _below(path: Path, roots: Sequence[Path]) -> Path:
    """An image's path below the first of the folders that holds it; else with its own folder.

    Examples:
        >>> _below(Path('/data/val/a/x.png'), [Path('/data/val')]).as_posix()
        'a/x.png'
    """
    for root in roots:
        if root in path.parents:
            return path.relative_to(root)
    return Path(*path.parts[-2:])
