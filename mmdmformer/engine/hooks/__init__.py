# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Hooks for configs, one per file."""

from .annotations import AnnotationsHook
from .batch_size import BatchSizeHook
from .checkpoint import SafeCheckpointHook
from .class_count import ClassCountHook
from .drawing import DrawPredictionsHook
from .non_finite import NonFiniteHook
from .norm_statistics import SyncNormStatisticsHook
from .optimizer_mode import OptimizerModeHook
from .resume import ResumeHook
from .signals import SignalHook
from .tta import AverageUnderTTAHook
from .unreadable_images import UnreadableImagesHook

__all__ = [
    'AnnotationsHook',
    'AverageUnderTTAHook',
    'BatchSizeHook',
    'ClassCountHook',
    'DrawPredictionsHook',
    'NonFiniteHook',
    'OptimizerModeHook',
    'ResumeHook',
    'SafeCheckpointHook',
    'SignalHook',
    'SyncNormStatisticsHook',
    'UnreadableImagesHook',
]
