# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mIoU that counts every pixel. Imported only with mmseg."""

import torch
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from torch import Tensor


class IoUMetric(MMSegIoUMetric):
    """mmseg's metric, with pixels counted in integers.

    It replaces how mmseg 1.2's IoUMetric counts: in float32, which ends at 16,777,216 pixels of a
    class in one image, so that whatever is beyond, right or wrong, is not in the numbers.

    In a config: ``type='mmdmformer.datasets.iou_metric.IoUMetric'``, which needs no import.
    """

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Count the pixels of an image.

        Args:
            pred_label (Tensor): Predicted labels of any shape.
            label (Tensor): Annotated labels of the same shape.
            num_classes (int): Labels from 0 on that are counted.
            ignore_index (int): The annotated label that is not.

        Returns:
            tuple[Tensor, Tensor, Tensor, Tensor]: By class, on the CPU: pixels in both, in one or
            the other, of the prediction and of the annotation, each int64 of shape (num_classes,).
        """
        kept = label != ignore_index
        predicted, annotated = pred_label[kept], label[kept]
        both, of_prediction, of_annotation = (
            _count(labels, num_classes)
            for labels in (predicted[predicted == annotated], predicted, annotated)
        )
        return both, of_prediction + of_annotation - both, of_prediction, of_annotation


def _count(labels: Tensor, num_classes: int) -> Tensor:
    labels = labels[(labels >= 0) & (labels < num_classes)].long()
    return torch.bincount(labels, minlength=num_classes).cpu()
