# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""RetinaNet's post-processing for batches and images of any size, without Python's loops over them.

It gives what mmdet's ``predict_by_feat`` gives.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


@torch.library.custom_op('mmdmformer::batched_nms', mutates_args=())
def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_per_class: int,
) -> Tensor:
    """Suppress boxes that overlap with better ones of their class; ONNX's NonMaxSuppression.

    Args:
        boxes (Tensor): Corners, of shape (B, N, 4).
        scores (Tensor): Scores of each class, of shape (B, C, N).
        iou_threshold (float): Overlap from which on the worse box goes.
        score_threshold (float): Boxes must score more than this.
        max_per_class (int): How many of an image's class stay at most.

    Returns:
        Tensor: Image, class and box of those that stay, of shape (M, 3); the
        best of a class first.
    """
    from torchvision.ops import nms

    kept = [boxes.new_empty((0, 3), dtype=torch.int64)]
    for image, label in (scores > score_threshold).any(2).nonzero().tolist():
        score = scores[image, label]
        good = (score > score_threshold).nonzero()[:, 0]
        corners = boxes[image, good].float()  # half precision has no kernel
        best = good[nms(corners, score[good].float(), iou_threshold)[:max_per_class]]
        place = best.new_tensor([image, label]).expand(len(best), 2)
        kept.append(torch.cat((place, best[:, None]), 1))
    return torch.cat(kept)


@batched_nms.register_fake
def _(boxes, scores, iou_threshold, score_threshold, max_per_class):
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((count, 3), dtype=torch.int64)


_NMS_KEYS = (
    'iou_threshold',
    'class_agnostic',
    'max_num',
    'offset',
    'score_threshold',
    'split_thr',  # how mmcv saves memory, with the same result
)
_NO_LIMIT = 2**31 - 1


class BoxDecoder(nn.Module):
    """From the maps of a RetinaNet's head to boxes.

    Args:
        head (nn.Module): mmdet's ``RetinaHead`` with its ``test_cfg``.

    Raises:
        ValueError: If its ``test_cfg`` asks for what ONNX has no operator for.
    """

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.num_classes, self.num_labels = head.cls_out_channels, head.num_classes
        self.softmax = not head.use_sigmoid_cls
        self.priors, self.coder = head.prior_generator, head.bbox_coder
        cfg = head.test_cfg
        # What is left out has mmdet's default.
        self.nms_pre, self.max_per_img = cfg.get('nms_pre', -1), cfg.max_per_img
        self.score_thr = float(cfg.get('score_thr', 0))
        self.min_bbox_size = cfg.get('min_bbox_size', -1)
        if min(self.nms_pre, self.max_per_img) < -1:
            raise ValueError(
                f'model.test_cfg with nms_pre={self.nms_pre} and max_per_img={self.max_per_img} '
                'cannot be exported: give each as the largest number of boxes, or as -1.'
            )
        nms = _nms_settings(cfg.nms)
        self.iou_threshold = float(nms['iou_threshold'])
        self.nms_thr = max(self.score_thr, float(nms.get('score_threshold', 0)))
        self.class_agnostic = bool(nms.get('class_agnostic', False))
        limits = [self.max_per_img, nms.get('max_num') or -1]
        self.limit = min((n for n in limits if n >= 0), default=_NO_LIMIT)

    def thresholds(self) -> dict[str, Any]:
        """The settings by which boxes are chosen, -1 for no limit."""
        return dict(
            score=self.nms_thr,
            iou=self.iou_threshold,
            class_agnostic=self.class_agnostic,
            before_suppression=self.nms_pre,
            per_image=-1 if self.limit == _NO_LIMIT else self.limit,
            min_bbox_size=self.min_bbox_size,
            where='in the network',
        )

    def forward(
        self, scores: Sequence[Tensor], deltas: Sequence[Tensor], sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode the maps of all levels.

        Args:
            scores (Sequence[Tensor]): Logits of classes, one tensor for each
                level, of shape (B, A C, H, W).
            deltas (Sequence[Tensor]): Offsets, of shape (B, A 4, H, W).
            sizes (Tensor): Height and width to which the boxes of each image
                are clipped, of shape (B, 2), or (1, 2) for all.

        Returns:
            tuple[Tensor]: Corners (x1, y1, x2, y2) in pixels, of shape (M, 4);
            scores, labels and the image of each box, of shape (M, ).
        """
        grids = [level.shape[2:] for level in scores]
        anchors = self.priors.grid_priors(grids, scores[0].dtype, scores[0].device)
        levels = [
            self._best_of_level(*level, sizes)
            for level in zip(scores, deltas, anchors, strict=True)
        ]
        corners, score, label = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
        image, box = self._suppress(corners, score, label)
        if self.max_per_img == -1:
            # mmdet slices by it, which leaves out the last box of each image.
            end = torch.full_like(image[:1], -1)
            followed = image == torch.cat((image[1:], end))
            image, box = image[followed], box[followed]
        return corners[image, box], score[image, box], label[image, box], image

    def _suppress(self, corners: Tensor, score: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Image and box of those that stay, images in order, the best first."""
        scores = score[:, None]
        if not self.class_agnostic:
            # Not by moving classes apart, whose offsets half precision cannot hold.
            classes = torch.arange(self.num_labels, device=label.device)[:, None]
            scores = torch.where(label[:, None] == classes, scores, scores.new_tensor(-1.0))
        kept = batched_nms(corners, scores, self.iou_threshold, self.nms_thr, self.limit)
        image, _, box = kept.unbind(1)
        left = torch.full_like(score, -1).index_put((image, box), score[image, box])
        best, place = left.sort(1, descending=True)
        image, rank = (best[:, : self.limit] > self.nms_thr).nonzero().unbind(1)
        return image, place[image, rank]

    def _best_of_level(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch = scores.shape[0]
        scores = scores.permute(0, 2, 3, 1).reshape(batch, -1, self.num_classes)
        scores = scores.softmax(-1)[..., :-1] if self.softmax else scores.sigmoid()
        num_classes, scores = scores.shape[-1], scores.reshape(batch, -1)
        deltas = deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4)
        if self.nms_pre < 0:
            score, place = scores.sort(1, descending=True)
            # mmdet slices by it, which leaves out the worst of those above the threshold.
            last = (score > self.score_thr).sum(1, keepdim=True) + self.nms_pre
            rank = torch.arange(scores.shape[1], device=scores.device)
            score = score.masked_fill(rank >= last, -1)
        else:
            # Small maps have fewer scores; those in their place are below any threshold.
            filler = scores.new_full((1, self.nms_pre), -1).expand(batch, -1)
            score, place = torch.cat((scores, filler), 1).topk(self.nms_pre)
        anchor, label = place // num_classes, place % num_classes
        anchor = anchor.clamp(max=anchors.shape[0] - 1)
        deltas = deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode(anchors[anchor].flatten(0, 1), deltas.flatten(0, 1))
        boxes = boxes.reshape(batch, -1, 4)
        if self.coder.clip_border:  # in place, the coder would, which exporters do not follow
            limits = sizes.flip(1).repeat(1, 2)[:, None]  # of x1, y1, x2, y2
            limits = limits.to(boxes.dtype)
            boxes = torch.where(boxes < limits, boxes, limits).clamp(min=0)
        if self.min_bbox_size >= 0:
            sides = boxes[..., 2:] - boxes[..., :2]
            score = score.masked_fill((sides <= self.min_bbox_size).any(-1), -1)
        return boxes, score, label


def _nms_settings(nms: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of ``test_cfg.nms``, or a ValueError on what ONNX has no operator for."""
    if nms is None:
        return dict(iou_threshold=1.0)  # none is suppressed
    settings = dict(nms)
    if 'iou_thr' in settings:  # its old name
        settings['iou_threshold'] = settings.pop('iou_thr')
    kind = settings.pop('type', 'nms')
    strange = [f'type={kind!r}'] if kind != 'nms' else []
    strange += [f'{key}={value!r}' for key, value in settings.items() if key not in _NMS_KEYS]
    strange += ['offset=1'] if settings.get('offset') else []
    if strange:
        raise ValueError(
            f'model.test_cfg.nms has {strange[0]}, which cannot be exported, as ONNX has no '
            "operator for it: test with dict(type='nms', iou_threshold=...), or export the maps "
            'of the head with --raw.'
        )
    return settings
