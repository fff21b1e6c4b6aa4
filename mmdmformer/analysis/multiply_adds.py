# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of convolutions and matrix products, counted without computing them."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..checkpoints import input_channels


def count_multiply_adds(model: nn.Module, image_size: tuple[int, int]) -> int:
    """Count the multiply-adds of a model's convolutions and matrix products for one image.

    The model runs on torch's meta device, where tensors have shapes but no values: an image of
    512x2048 pixels takes neither time nor memory. Norms, activations and other work for each
    element are left out, as in most papers.

    Args:
        model (nn.Module): A classifier, single-stage detector or segmentor of the toolboxes. The
            auxiliary head of a segmentor, which serves training alone, is not counted.
        image_size (tuple[int, int]): Height and width, in pixels.

    Returns:
        int: The number.

    Raises:
        ValueError: If it is a two-stage detector: its work depends on what it finds.
    """
    if hasattr(model, 'roi_head'):
        raise ValueError(
            f'the multiply-adds of {type(model).__name__} depend on what it finds in an image: '
            'count its backbone instead.'
        )
    model = copy.deepcopy(model).to('meta').eval()
    image = torch.empty(1, input_channels(model), *image_size, device='meta')
    arguments = {} if not hasattr(model, 'data_preprocessor') else dict(mode='tensor')
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image, **arguments)
    return counter.get_total_flops() // 2
