# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Non-maximum suppression of upright boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from .common import at_least_float32, torchvision_operator

__all__ = ['nms', 'nms_match', 'softnms']


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes (Tensor): (N, 4) corners x1, y1, x2, y2 in pixels.
        scores (Tensor): (N,).
        iou_threshold (float): A box is dropped when its IoU with a kept box is larger.
        offset (int): A side is ``x2 - x1 + offset`` pixels long; 0 or 1.

    Returns:
        Tensor: (K,) indices of the kept boxes, by descending score.
    """
    boxes = at_least_float32(boxes)
    if offset:  # torchvision knows offset 0 only: move the far corner instead
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torchvision_operator('nms')(boxes, scores.to(boxes.dtype), iou_threshold)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al. 2017): scores of overlapping boxes sink, instead of the boxes going.

    Args:
        boxes (Tensor): (N, 4) corners x1, y1, x2, y2 in pixels.
        scores (Tensor): (N,).
        dets (Tensor): (N, 5); the first K rows become corners and new scores.
        iou_threshold (float): From this IoU on, methods 0 and 1 lower a score.
        sigma (float): Method 2 multiplies by ``exp(-IoU ** 2 / sigma)``, at every overlap.
        min_score (float): A box whose score was lowered below it is dropped.
        method (int): 0 drops to zero, 1 multiplies by ``1 - IoU``, 2 is the Gaussian.
        offset (int): A side is ``x2 - x1 + offset`` pixels long; 0 or 1.

    Returns:
        Tensor: (K,) indices of the boxes that are left, by descending new score.
    """
    boxes, scores = boxes.float(), scores.float()
    left = torch.arange(len(boxes))
    kept: list[Tensor] = []
    while len(left):
        best = left[scores[left].argmax()]
        dets[len(kept)] = torch.cat([boxes[best], scores[best, None]])
        kept.append(best)
        left = left[left != best]
        iou = _iou(boxes[best], boxes[left], offset)
        if method == 2:
            factor = torch.exp(-iou.square() / sigma)
        else:
            factor = torch.where(iou >= iou_threshold, (1 - iou) * method, 1.0)
        lowered = scores[left] * factor
        scores = scores.index_copy(0, left, lowered)
        left = left[~(lowered < min_score)]
    return torch.stack(kept) if kept else left


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes by the one that suppresses them in greedy non-maximum suppression.

    Args:
        dets (Tensor): (N, 5) corners x1, y1, x2, y2 in pixels, and scores.
        iou_threshold (float): A box is suppressed from this IoU with a kept box on.

    Returns:
        list[list[int]]: Per kept box its index and those of the boxes that it suppresses, all by
        descending score.
    """
    boxes, left = dets[:, :4].float(), dets[:, 4].argsort(descending=True)
    groups = []
    while len(left):
        best, left = left[0], left[1:]
        suppressed = _iou(boxes[best], boxes[left], 0) >= iou_threshold
        groups.append([best.item(), *left[suppressed].tolist()])
        left = left[~suppressed]
    return groups


def _iou(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """IoU of one box with each of (N, 4)."""
    sides = torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2]) + offset
    intersection = sides.clamp(min=0).prod(1)
    area, areas = (
        (box[2:] - box[:2] + offset).prod(),
        (boxes[:, 2:] - boxes[:, :2] + offset).prod(1),
    )
    return intersection / (area + areas - intersection)
