# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A check that heads and data have the same number of classes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from ...datasets.annotations import check_class_names
from ..errors import UsageError
from ..runner_parts import built_dataloaders

# One tells objects from background, the other has classes of COCO-Stuff.
_OTHER_CLASSES = 'rpn_head', 'semantic_head'


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Stops a run before its first step if a head has another number of classes than the data.

    Too many outputs train in silence, and too few crash somewhere else. Compared are the
    ``num_classes`` of every head of a classifier, detector or segmentor with the ``classes`` that
    the data set of each loop has in its ``metainfo``; of panoptic data also with those of things.
    The head that proposes regions and the semantic branch of HTC are left out. mmdet's
    NumClassCheckHook does so for detectors, without the names of the settings.

    Args:
        refuse (bool): Whether to end the run; else the log says it. Defaults to True.

    Examples:
        >>> default_hooks = dict(class_count=dict(type='ClassCountHook'))
    """

    def __init__(self, refuse: bool = True) -> None:
        self.refuse = refuse

    def before_run(self, runner) -> None:
        """Compare.

        Raises:
            UsageError: Naming the settings that do not fit each other.
            BadInputError: If the classes are a text.
        """
        heads = dict(_heads(runner.model))
        for split, dataloader in built_dataloaders(runner):
            dataset = f'{split}_dataloader.dataset'
            metainfo = getattr(dataloader.dataset, 'metainfo', None) or {}
            classes = metainfo.get('classes')
            check_class_names(classes, dataset)
            if classes is None:
                continue
            counts = {len(classes), len(metainfo.get('thing_classes') or classes)}
            wrong = [f'{key}={count}' for key, count in heads.items() if count not in counts]
            if wrong:
                sentence = (
                    f'{", ".join(wrong)} does not fit the {len(classes)} classes of {dataset}: '
                    f'set num_classes to {len(classes)}, or metainfo.classes of the data set to '
                    'those of the head, or refuse=False of ClassCountHook if they are to differ.'
                )
                if self.refuse:
                    raise UsageError(sentence)
                runner.logger.warning(sentence)


def _heads(model: nn.Module) -> Iterator[tuple[str, int]]:
    """Each head's number of classes by the setting that holds it."""
    for name, module in model.named_modules():
        # Wrappers add names before, and lists of heads numbers behind.
        path = re.sub(r'^(module\.)+', '', name)
        kind = re.sub(r'(\.\d+)+$', '', path).rpartition('.')[2]
        count = getattr(module, 'num_classes', None)
        if kind.endswith('head') and kind not in _OTHER_CLASSES and isinstance(count, int):
            yield f'model.{path}.num_classes', count
