# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Hooks that a config names, one a file."""

from .annotations import AnnotationsHook
from .batch_size import BatchSizeHook
from .checkpoint import SafeCheckpointHook
from .drawing import DrawPredictionsHook
from .non_finite import NonFiniteHook
from .resume import ResumeHook
from .signals import SignalHook
from .tta import AverageUnderTTAHook
from .unreadable_images import UnreadableImagesHook

__all__ = [
    'AnnotationsHook',
    'AverageUnderTTAHook',
    'BatchSizeHook',
    'DrawPredictionsHook',
    'NonFiniteHook',
    'ResumeHook',
    'SafeCheckpointHook',
    'SignalHook',
    'UnreadableImagesHook',
]
