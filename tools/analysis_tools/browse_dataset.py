# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Visualize the training images of a config with their annotations, after its pipeline.

It works for configs of all tasks and uses the toolbox's own visualizer.
"""

import argparse
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, VISUALIZERS, DefaultScope, init_default_scope
from mmengine.utils import import_modules_from_strings
from mmengine.visualization import Visualizer
from rich.progress import track

from mmdmformer.engine import runtime
from mmdmformer.engine.model import toolbox_of
from mmdmformer.engine.overrides import CfgOptions

READABLE = 224  # pixels: to this shorter side images of classes are enlarged, for the text


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file of any OpenMMLab toolbox')
    parser.add_argument('--output-dir', type=Path, help='output directory')
    parser.add_argument('--not-show', action='store_true', help='do not open a window')
    parser.add_argument(
        '--show-number',
        type=runtime.positive,
        help='number of images, from the first (default: all)',
    )
    parser.add_argument(
        '--show-interval', type=float, default=2, help='seconds per image: %(default)s'
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    return parser.parse_args()


def build(cfg: Config) -> tuple[BaseDataset, Visualizer]:
    """Build the training data and the visualizer of a config, in the scope of its toolbox."""
    if 'custom_imports' in cfg:
        import_modules_from_strings(**cfg.custom_imports)
    with DefaultScope.overwrite_default_scope(toolbox_of(cfg)):
        init_default_scope(toolbox_of(cfg))
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        # nothing is logged, so no back ends
        visualizer = VISUALIZERS.build(
            {'name': 'browse_dataset', **cfg.visualizer, 'vis_backends': None}
        )
    visualizer.dataset_meta = dataset.metainfo
    return dataset, visualizer


def draw(visualizer: Visualizer, item: dict[str, Any], name: str, **where: Any) -> None:
    """Draw an image of a data set, as its pipeline has packed it.

    Args:
        visualizer (Visualizer): The toolbox's.
        item (dict): ``inputs`` of shape (3, H, W), BGR, and ``data_samples``.
        name (str): Name of the image.
        **where: ``show``, ``wait_time`` and ``out_file``.
    """
    image = item['inputs'].permute(1, 2, 0).numpy()[..., ::-1].copy()
    sample = item['data_samples'].numpy()
    if hasattr(visualizer, 'visualize_cls'):  # of mmpretrain
        scale = max(1, READABLE / min(image.shape[:2]))
        visualizer.visualize_cls(image, sample, rescale_factor=scale, name=name, **where)
        return
    objects = sample.get('gt_instances', {})
    if 'masks' in objects:
        objects.masks = objects.masks.to_ndarray().astype(bool)
    if hasattr(objects.get('bboxes'), 'tensor'):
        objects.bboxes = objects.bboxes.tensor
    visualizer.add_datasample(name, image, sample, draw_pred=False, **where)


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        if args.not_show and args.output_dir is None:
            raise runtime.UsageError('--not-show needs --output-dir: nothing would be seen.')
        dataset, visualizer = build(runtime.read_config_file(args.config, args.cfg_options))
        for i in track(range(min(len(dataset), args.show_number or len(dataset))), 'drawing'):
            item = dataset[i]
            # with the folder, as classes and splits hold equal names
            name = '_'.join(Path(item['data_samples'].img_path).parts[-2:])
            out_file = args.output_dir and str(args.output_dir / name)
            show = dict(show=not args.not_show, wait_time=args.show_interval)
            draw(visualizer, item, name, out_file=out_file, **show)


if __name__ == '__main__':
    main()
