# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""RetinaNet's post-processing for batches and images of any size, without Python's loops over them.

It gives what mmdet's ``predict_by_feat`` gives.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.library.custom_op('mmdmformer::batched_nms', mutates_args=())
def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    max_per_image: int,
) -> Tensor:
    """Suppress boxes that overlap with better ones of their image; ONNX's NonMaxSuppression.

    Args:
        boxes (Tensor): Corners, of shape (B, N, 4).
        scores (Tensor): Scores, of shape (B, N).
        iou_threshold (float): Overlap from which on the worse box goes.
        score_threshold (float): Boxes must score more than this.
        max_per_image (int): How many of an image stay at most.

    Returns:
        Tensor: Image and box of those that stay, of shape (M, 2); the best of
        an image first.
    """
    from torchvision.ops import nms

    kept = []
    for image, (corners, score) in enumerate(zip(boxes, scores, strict=True)):
        good = (score > score_threshold).nonzero()[:, 0]
        kept_here = good[nms(corners[good], score[good], iou_threshold)[:max_per_image]]
        kept.append(torch.stack((torch.full_like(kept_here, image), kept_here), 1))
    return torch.cat(kept)


@batched_nms.register_fake
def _(boxes, scores, iou_threshold, score_threshold, max_per_image):
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((count, 2), dtype=torch.int64)


class BoxDecoder(nn.Module):
    """From the maps of a RetinaNet's head to boxes.

    Args:
        head (nn.Module): mmdet's ``RetinaHead`` with its ``test_cfg``.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.num_classes = head.cls_out_channels
        self.priors, self.coder, self.test_cfg = (
            head.prior_generator,
            head.bbox_coder,
            head.test_cfg,
        )

    def forward(
        self, scores: Sequence[Tensor], deltas: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decode the maps of all levels.

        Args:
            scores (Sequence[Tensor]): Logits of classes, one tensor for each
                level, of shape (B, A C, H, W).
            deltas (Sequence[Tensor]): Offsets, of shape (B, A 4, H, W).
            size (tuple[int, int]): Height and width to which boxes are
                clipped.

        Returns:
            tuple[Tensor]: Corners (x1, y1, x2, y2) in pixels, of shape (M, 4);
            scores, labels and the image of each box, of shape (M, ).
        """
        grids = [level.shape[2:] for level in scores]
        anchors = self.priors.grid_priors(grids, scores[0].dtype, scores[0].device)
        levels = [
            self._best_of_level(*level, size) for level in zip(scores, deltas, anchors, strict=True)
        ]
        corners, score, label = (torch.cat(parts, 1) for parts in zip(*levels, strict=True))
        # Boxes of different classes do not suppress each other, as they are moved apart.
        offset = label.to(corners.dtype) * (corners.amax((1, 2)) + 1)[:, None]
        kept = batched_nms(
            corners + offset[..., None],
            score,
            float(self.test_cfg.nms.iou_threshold),
            float(self.test_cfg.score_thr),
            int(self.test_cfg.max_per_img),
        )
        image, box = kept.unbind(1)
        return corners[image, box], score[image, box], label[image, box], image

    def _best_of_level(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch = scores.shape[0]
        scores = scores.permute(0, 2, 3, 1).reshape(batch, -1).sigmoid()
        deltas = deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4)
        # Small maps have less than nms_pre scores; those in their place are below any threshold.
        filler = scores.new_full((1, self.test_cfg.nms_pre), -1).expand(batch, -1)
        score, place = torch.cat((scores, filler), 1).topk(self.test_cfg.nms_pre)
        anchor, label = place // self.num_classes, place % self.num_classes
        anchor = anchor.clamp(max=anchors.shape[0] - 1)
        deltas = deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode(anchors[anchor].flatten(0, 1), deltas.flatten(0, 1))
        # The coder would clip in place, which exporters do not follow.
        height, width = size
        columns, rows = boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)
        boxes = torch.stack((columns, rows), 2).reshape(batch, -1, 4)
        sides = boxes[..., 2:] - boxes[..., :2]
        too_small = (sides <= self.test_cfg.min_bbox_size).any(-1)
        return boxes, score.masked_fill(too_small, -1), label
