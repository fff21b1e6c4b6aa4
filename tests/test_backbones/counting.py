# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Multiply-adds and activations by the rules of the dynamic-convolution paper's tables.

These are the rules of the counter in mmengine: convolutions, linear layers and matrix products
count their multiply-adds, a layer norm 5 and an adaptive pooling 1 for each element, and all else
nothing; activations are the outputs of the first three.
"""

from math import prod

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.analysis.complexity_analysis import _DEFAULT_SUPPORTED_FLOP_OPS

PRODUCTS = ('_convolution', 'addmm', 'bmm', 'einsum', 'linear', 'matmul')


def count(model, image_size=224):
    """Count in one forward pass.

    Args:
        model (nn.Module): The network without its classifier.
        image_size (int): Sides of the image.

    Returns:
        tuple[int, int]: Multiply-adds and activations of one image.
    """
    activations = []

    def note_activations(handle):
        def note(inputs, outputs):
            activations.append(prod(outputs[0].type().sizes()))
            return handle(inputs, outputs)

        return note

    analyzer = FlopAnalyzer(model.eval(), torch.rand(1, 3, image_size, image_size))
    for name in (f'aten::{product}' for product in PRODUCTS):
        handle = _einsum if name == 'aten::einsum' else _DEFAULT_SUPPORTED_FLOP_OPS[name]
        analyzer.set_op_handle(name, note_activations(handle))
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    multiply_adds = analyzer.tracer_warnings('none').total()
    return int(multiply_adds), sum(activations)


def _einsum(inputs, outputs):
    """Price an einsum as numpy does, which the counters ask, without their rounding to four digits.

    All factors are contracted at once, also three, where the result of two would be larger than
    numpy's memory limit. Each element takes a multiplication for every factor after the first, and
    an addition if there is a sum; two of these are one multiply-add.
    """
    factors, result = inputs[0].toIValue().replace(' ', '').split('->')
    shapes = [value.type().sizes() for value in inputs[1].node().inputs()]
    sizes = {}
    for factor, shape in zip(factors.split(','), shapes, strict=True):
        sizes.update(zip(factor, shape, strict=True))
    operations = len(shapes) - 1 + any(index not in result for index in sizes)
    return prod(sizes.values()) * operations // 2
