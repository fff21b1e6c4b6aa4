# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Rotated boxes: center x, y, width, height in pixels and angle in radians, clockwise as y points
down."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['box_iou_rotated', 'nms_rotated']

_TOLERANCE = 1e-9  # of sides of a box, within which a point is on its border


def box_iou_rotated(
    bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, *, mode_flag: int, aligned: bool
) -> None:
    """IoU of rotated boxes; fills ``ious``.

    Args:
        bboxes1 (Tensor): (N, 5).
        bboxes2 (Tensor): (M, 5).
        ious (Tensor): (N,) of pairs if ``aligned``, else (N * M,); overwritten.
        mode_flag (int): 0 divides by the union, 1 by the first box.
        aligned (bool): Whether the boxes are compared in pairs.
    """
    if aligned:
        ious.copy_(_iou(bboxes1, bboxes2, mode_flag))
        return
    for row, box in zip(ious.view(len(bboxes1), len(bboxes2)), bboxes1, strict=True):
        row.copy_(_iou(box.expand_as(bboxes2), bboxes2, mode_flag))


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: bool,
) -> Tensor:
    """Greedy non-maximum suppression of rotated boxes.

    Args:
        dets (Tensor): (N, 5), or (N, 6) with the class.
        scores (Tensor): (N,), not used.
        order (Tensor): (N,) indices by descending score.
        dets_sorted (Tensor): Not used.
        labels (Tensor): Not used.
        iou_threshold (float): A box is dropped when its IoU with a kept box is larger.
        multi_label (bool): Whether only boxes of the same class drop one another.

    Returns:
        Tensor: (K,) indices of the kept boxes, by descending score.
    """
    kept, left = [], order
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        others = dets[left]
        dropped = _iou(dets[best, :5].expand(len(left), 5), others[:, :5], 0) > iou_threshold
        if multi_label:
            dropped &= others[:, 5] == dets[best, 5]
        left = left[~dropped]
    return torch.stack(kept) if kept else left


def _iou(a: Tensor, b: Tensor, mode: int) -> Tensor:
    """IoU (0) or share of ``a`` (1) of boxes in pairs, both (N, 5)."""
    a, b = a.double(), b.double()
    intersection = _intersection(a, b)
    area_a, area_b = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    whole = area_a if mode else area_a + area_b - intersection
    return torch.where(whole > 0, intersection / whole, 0.0)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area that pairs of boxes share, by the shoelace formula over the corners of what they share.

    Those are the corners of each that lie within the other, and the points where sides cross.
    """
    origin = a[:, None, :2]  # far from it, products of coordinates would lose digits
    corners_a, corners_b = _corners(a) - origin, _corners(b) - origin
    crossings, cross = _crossings(corners_a, corners_b)
    points = torch.cat([corners_a, corners_b, crossings], 1)
    valid = torch.cat([_within(corners_a, corners_b), _within(corners_b, corners_a), cross], 1)
    # Points that are none repeat one that is, which adds no area.
    first = points.take_along_dim(valid.long().argmax(1)[:, None, None], 1)
    points = torch.where(valid[..., None], points, first)
    spokes = (
        points - (points * valid[..., None]).sum(1, True) / valid.sum(1).clamp(min=1)[:, None, None]
    )
    turn = torch.atan2(spokes[..., 1], spokes[..., 0]).argsort(1)
    spokes = spokes.take_along_dim(turn[..., None], 1)
    area = _cross(spokes, spokes.roll(-1, 1)).sum(1) / 2
    return torch.where(valid.any(1), area, 0.0)


def _corners(boxes: Tensor) -> Tensor:
    """Corners (N, 4, 2) in turn."""
    center, (width, height), angle = boxes[:, None, :2], boxes[:, 2:4].T, boxes[:, 4]
    axes = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    half = boxes.new_tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    return center + half * torch.stack([width, height], 1)[:, None] @ axes


def _within(points: Tensor, corners: Tensor) -> Tensor:
    """Whether each of (N, 4, 2) points lies in the box of the corners, border included."""
    inside = points.new_ones(points.shape[:2], dtype=torch.bool)
    for neighbor in (1, 3):
        side = (corners[:, neighbor] - corners[:, 0])[:, None]
        along = ((points - corners[:, :1]) * side).sum(-1) / side.square().sum(-1)
        inside = inside & (along >= -_TOLERANCE) & (along <= 1 + _TOLERANCE)
    return inside


def _crossings(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Points (N, 16, 2) where the sides of two boxes cross, and whether they do."""
    side_a, side_b = (a.roll(-1, 1) - a)[:, :, None], (b.roll(-1, 1) - b)[:, None]
    between, turn = b[:, None] - a[:, :, None], _cross(side_a, side_b)
    turn = torch.where(turn.abs() > 1e-14, turn, torch.nan)  # parallel sides do not cross
    t, u = _cross(between, side_b) / turn, _cross(between, side_a) / turn
    crosses = (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    points = a[:, :, None] + torch.where(crosses, t, 0.0)[..., None] * side_a
    return points.flatten(1, 2), crosses.flatten(1, 2)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
