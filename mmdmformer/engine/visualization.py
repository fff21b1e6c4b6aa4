# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Drawing of classifications. Imported only where mmpretrain is installed."""

from collections.abc import Sequence

from mmengine.registry import HOOKS
from mmpretrain.engine import VisualizationHook
from mmpretrain.structures import DataSample


@HOOKS.register_module()
class TrueColourVisualizationHook(VisualizationHook):
    """mmpretrain's hook, but for its swap of red and blue.

    Pipelines load images as BGR, and mmpretrain's hook hands them to a
    visualiser that takes RGB.
    """

    def _draw_samples(
        self, batch_idx: int, data_batch: dict, data_samples: Sequence[DataSample], step: int = 0
    ) -> None:
        rgb = [image.flip(0) if len(image) == 3 else image for image in data_batch['inputs']]
        super()._draw_samples(batch_idx, {**data_batch, 'inputs': rgb}, data_samples, step)
