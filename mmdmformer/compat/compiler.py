# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Parts of torch's compiler that not every version of torch has."""

import functools


@functools.lru_cache
def has_fused_convolutions() -> bool:
    """Tell whether torch's fused oneDNN operators are there and compute what they should.

    The compiler's generated code uses them; no documentation promises them.

    Returns:
        bool: Whether convolutions and matrix products that add and activate
        give the expected numbers on the CPU.
    """
    try:
        return _multiply_add_as_expected()
    except (AttributeError, RuntimeError):  # no such operator, or another signature
        return False


def _multiply_add_as_expected() -> bool:
    import torch

    operators = torch.ops.mkldnn
    x, weight = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), -2.0)
    geometry = ([0, 0], [1, 1], [1, 1], 1)
    rows, matrix = x.flatten(1), weight.flatten(1)
    with torch.no_grad():
        results = [
            operators._convolution_pointwise(x, weight, None, *geometry, 'relu', [], ''),
            operators._convolution_pointwise_.binary(
                x.clone(), x, weight, None, *geometry, 'add', 1.0, None, [], None
            ),
            operators._linear_pointwise(rows, matrix, None, 'relu', [], ''),
            operators._linear_pointwise.binary(rows, rows, matrix, None, 'add'),
        ]
    return [result.item() for result in results] == [0.0, -3.0, 0.0, -3.0]


def is_exporting() -> bool:
    """Tell whether torch.export runs, or with torch before 2.7 perhaps torch.compile.

    Returns:
        bool: Whether the graph that is captured now may be for elsewhere.
    """
    import torch

    # torch.compile takes torch.compiler.is_exporting() for true wherever it sees it.
    flag = getattr(torch.compiler, '_is_exporting_flag', None)
    return torch.compiler.is_compiling() if flag is None else flag
