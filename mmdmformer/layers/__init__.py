# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from .arch import parse_arch
from .backbone import (
    Backbone,
    BackboneContract,
    as_outputs,
    check_input_size,
    normalize_out_indices,
)
from .checkpointing import checkpoint_forward
from .ffn import ConvFFN
from .norm import LayerNorm2d

__all__ = [
    'Backbone',
    'BackboneContract',
    'ConvFFN',
    'LayerNorm2d',
    'as_outputs',
    'check_input_size',
    'checkpoint_forward',
    'normalize_out_indices',
    'parse_arch',
]
