# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mIoU that counts every pixel, and F-scores of every class. Imported only with mmseg."""

from collections.abc import Sequence

import numpy as np
import torch
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from torch import Tensor


class IoUMetric(MMSegIoUMetric):
    """mmseg's metric, with pixels counted in integers and F-scores of all classes.

    It replaces how mmseg 1.2's IoUMetric counts: in float32, which ends at 16,777,216 pixels of a
    class in one image, so that whatever is beyond, right or wrong, is not in the numbers. And its
    mFscore, which leaves out every class without a single right pixel, so that a model that knows
    the background alone has that class's score. Here such a class counts 0, as in mDice.

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

    @staticmethod
    def total_area_to_metrics(
        total_area_intersect: Tensor,
        total_area_union: Tensor,
        total_area_pred_label: Tensor,
        total_area_label: Tensor,
        metrics: Sequence[str] = ('mIoU',),
        nan_to_num: int | None = None,
        beta: int = 1,
    ) -> dict[str, np.ndarray]:
        """Compute what is averaged over the classes.

        Args:
            total_area_intersect (Tensor): Pixels of all images by class, (num_classes,), in both.
            total_area_union (Tensor): In one or the other.
            total_area_pred_label (Tensor): Of the predictions.
            total_area_label (Tensor): Of the annotations.
            metrics (Sequence[str]): Of mIoU, mDice and mFscore. Defaults to mIoU.
            nan_to_num (int, optional): What a class without pixels counts; by default it does not.
            beta (int): Weight of the recall in the F-score. Defaults to 1.

        Returns:
            dict[str, np.ndarray]: Numbers of each class, (num_classes,), or of all.
        """
        areas = total_area_intersect, total_area_union, total_area_pred_label, total_area_label
        found = MMSegIoUMetric.total_area_to_metrics(*areas, metrics, nan_to_num, beta)
        if 'Fscore' in found:
            both = (1 + beta**2) * total_area_intersect
            score = (both / (beta**2 * total_area_label + total_area_pred_label)).numpy()
            found['Fscore'] = score if nan_to_num is None else np.nan_to_num(score, nan=nan_to_num)
        return found


def _count(labels: Tensor, num_classes: int) -> Tensor:
    labels = labels[(labels >= 0) & (labels < num_classes)].long()
    return torch.bincount(labels, minlength=num_classes).cpu()
