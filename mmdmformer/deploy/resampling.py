# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Pooling and upsampling that can be exported for maps of any size."""

from typing import Any

from torch import nn

from ..layers.pooling import AdaptiveAveragePool


def make_exportable(module: nn.Module) -> None:
    """Exchange the layers of a head that would tie its export to one size, in place.

    Args:
        module (nn.Module): A head of mmseg. Its ``Upsample`` computes a size
            with Python's ``int``, which tracing turns into a constant.
    """
    for name, child in dict[str, Any](module.named_children()).items():
        size = getattr(child, 'output_size', None)
        if isinstance(child, nn.AdaptiveAvgPool2d) and isinstance(size, int) and size != 1:
            # Pooling to one value is an average over the map, which every exporter knows.
            setattr(module, name, AdaptiveAveragePool(size))
        elif type(child).__name__ == 'Upsample' and getattr(child, 'scale_factor', None):
            options = dict(mode=child.mode, align_corners=child.align_corners)
            setattr(module, name, nn.Upsample(scale_factor=child.scale_factor, **options))
        else:
            make_exportable(child)
