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
    other, and the first of several processes draws for all. The toolboxes' own hooks do neither.

    Args:
        out_dir (str): The folder.

    Examples:
        >>> custom_hooks = [dict(type='DrawPredictionsHook', out_dir='pictures')]
    """

    priority = 'LOW'

    def __init__(self, out_dir: str) -> None:
        self.out_dir = Path(out_dir)

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
        roots = _image_folders(runner.test_dataloader.dataset)
        for sample in chain(*batches):
            image = mmcv.imread(sample.img_path, channel_order='rgb')
            out_file = self.out_dir / _below(Path(sample.img_path).absolute(), roots)
            out_file.parent.mkdir(parents=True, exist_ok=True)
            if draw is not None:
                draw(image, sample, out_file=str(out_file))
            else:
                visualizer.add_datasample(out_file.stem, image, sample, out_file=str(out_file))


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
