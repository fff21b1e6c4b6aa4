# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Everything that reads, checks, converts or writes weights."""

from ..compat.checkpoint import CheckpointError
from .backbones import deploy_options, find_backbones, input_channels, predicting_model
from .checking import check_intact, complete_weights, load_complete
from .converting import convert_checkpoint, fold_checkpoint
from .pretrained import CheckedPretrainedInit
from .publishing import publish
from .reading import choose_weights, find_weights, read_checkpoint
from .run_folder import find_checkpoint, point_to
from .shipped import shipped_file
from .writing import DurableLocalBackend, write_checkpoint

__all__ = [
    'CheckedPretrainedInit',
    'CheckpointError',
    'DurableLocalBackend',
    'check_intact',
    'choose_weights',
    'complete_weights',
    'convert_checkpoint',
    'deploy_options',
    'find_backbones',
    'find_checkpoint',
    'find_weights',
    'fold_checkpoint',
    'input_channels',
    'load_complete',
    'point_to',
    'predicting_model',
    'publish',
    'read_checkpoint',
    'shipped_file',
    'write_checkpoint',
]
