# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Targets of class activation maps: the explained number of a model's output.

It is the score of a class of a classifier, of a box of a detector, of a pixel or a region of a
segmentor.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..engine.runtime import UsageError
from .loaded_model import LoadedModel


@dataclass(frozen=True)
class Request:
    """What is to be explained.

    Attributes:
        target_class (str, optional): Index or name of a class; None explains
            what the model predicts.
        box (int, optional): A detector's box, counted from 0 by falling score;
            None is the best one.
        pixel (tuple[int, int], optional): A segmentor's column and row in the
            image; None is the whole region of the class.
    """

    target_class: str | None = None
    box: int | None = None
    pixel: tuple[int, int] | None = None


def check_request(request: Request, tasks: Collection[str]) -> None:
    """Refuse requests that concern no model of the figure.

    Args:
        request (Request): What the user wants.
        tasks (Collection[str]): Of the models.

    Raises:
        UsageError: If a box is asked for without a detector, or a pixel
            without a segmentor.

    Examples:
        >>> check_request(Request(box=1), {'classification', 'detection'})
    """
    for option, given, task in (
        ('--box', request.box, 'detection'),
        ('--pixel', request.pixel, 'segmentation'),
    ):
        if given is not None and task not in tasks:
            raise UsageError(f'{option} is for models of {task}, and none is given: leave it out.')


@dataclass
class Target:
    """One number of a model's output.

    Attributes:
        caption (str): What it is, for people.
        score (Callable): From the scores of an image, without batch, to the
            number, a tensor of shape ().
        box (list[float], optional): Left, top, right and bottom of a box, in
            pixels of what the model sees.
        point (tuple[float, float], optional): Column and row, as fractions of
            the width and height of the image.
    """

    caption: str
    score: Callable[[Tensor], Tensor]
    box: list[float] | None = None
    point: tuple[float, float] | None = None


class ExplainedModel(nn.Module):
    """A model whose output for one image is a tensor of scores, as the library wants it.

    Args:
        loaded (LoadedModel): The model.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        super().__init__()
        # Of a frozen part there would be no gradients.
        self.model = loaded.model.requires_grad_(True)
        self.classes = loaded.classes
        self.samples: list = []  # what the pipeline tells of the image

    def choose(self, scores: Tensor, request: Request) -> Target | None:
        """Choose what is explained.

        Args:
            scores (Tensor): The output, without batch.
            request (Request): What the user wants.

        Returns:
            Target: The target; None if the model finds nothing in the image.

        Raises:
            UsageError: If the request cannot be met.
        """
        raise NotImplementedError

    def _wanted_class(self, request: Request, num_classes: float) -> int | None:
        wanted = request.target_class
        if wanted is None:
            return None
        if wanted in self.classes:
            return self.classes.index(wanted)
        if not wanted.lstrip('-').isdigit():
            close = difflib.get_close_matches(wanted, self.classes, n=3)
            hint = f'did you mean {" or ".join(close)}?' if close else 'give its index.'
            raise UsageError(f'the model has no class named {wanted}: {hint}')
        if not 0 <= int(wanted) < num_classes:
            raise UsageError(
                f'--target-class {wanted} is out of range: the model has the classes 0 to '
                f'{num_classes - 1}.'
            )
        return int(wanted)

    def _class_name(self, index: int) -> str:
        return self.classes[index] if index < len(self.classes) else f'class {index}'


class ExplainedClassifier(ExplainedModel):
    """Class scores before the softmax, or before the sigmoid if there are several labels."""

    def __init__(self, loaded: LoadedModel) -> None:
        from mmpretrain.models import BaseClassifier, MultiLabelClsHead

        super().__init__(loaded)
        if not isinstance(self.model, BaseClassifier):
            raise UsageError(
                f'a {type(self.model).__name__} has no scores of classes to explain: take a '
                'classifier.'
            )
        head = getattr(self.model, 'head', None)
        self.several_labels = isinstance(head, MultiLabelClsHead)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images of shape (1, 3, H, W) to scores of shape (1, classes)."""
        return self.model(inputs, self.samples, mode='tensor')

    def choose(self, scores: Tensor, request: Request) -> Target:
        """The wanted class, or the one with the highest score."""
        wanted = self._wanted_class(request, len(scores))
        index = int(scores.argmax()) if wanted is None else wanted
        shares = scores.sigmoid() if self.several_labels else scores.softmax(0)
        percent = 100 * shares[index].item()
        return Target(f'{self._class_name(index)} {percent:.1f} %', lambda out: out[index])


class ExplainedSegmentor(ExplainedModel):
    """Class scores of the image's pixels before the softmax."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images of shape (1, 3, H, W) to scores of shape (1, classes, height, width)."""
        logits = self.model.inference(inputs, [sample.metainfo for sample in self.samples])
        if logits.shape[1] == 1:
            # The two scores whose greater one says on which side of the threshold it is.
            border = torch.tensor(self.model.decode_head.threshold).logit()
            logits = torch.cat((2 * border - logits, logits), 1)
        (sample,) = self.model.postprocess_result(logits, self.samples)
        return sample.seg_logits.data[None]

    def choose(self, scores: Tensor, request: Request) -> Target | None:
        """The wanted pixel's score of a class, or that of the region where it is predicted.

        Without a wanted class it is the one that is predicted for the pixel,
        or for the largest part of the image.
        """
        wanted = self._wanted_class(request, len(scores))
        predicted = scores.argmax(0)
        if request.pixel is None:
            index = int(predicted.flatten().mode().values) if wanted is None else wanted
            region = predicted == index
            if not region.any():
                return None
            share = 100 * region.float().mean().item()
            caption = f'{self._class_name(index)}, {share:.1f} % of the image'
            return Target(caption, lambda out: out[index][region].sum())
        (x, y), (height, width) = request.pixel, predicted.shape
        if not (0 <= x < width and 0 <= y < height):
            raise UsageError(
                f'--pixel {x} {y} is outside of the image: its columns are 0 to {width - 1}, its '
                f'rows 0 to {height - 1}.'
            )
        index = int(predicted[y, x]) if wanted is None else wanted
        point = ((x + 0.5) / width, (y + 0.5) / height)
        caption = f'{self._class_name(index)} at {x}, {y}'
        return Target(caption, lambda out: out[index, y, x], point=point)


class ExplainedDetector(ExplainedModel):
    """Scores of the boxes that are found, by falling score.

    A detector's with a second stage or with queries are what it predicts. A
    dense head cuts its predictions off from the gradients, and so they are
    searched among its scores, there before the sigmoid.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images of shape (1, 3, H, W) to scores of shape (1, boxes)."""
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

        head = getattr(self.model, 'bbox_head', None)
        if not isinstance(head, BaseDenseHead):
            (sample,) = self.model.predict(inputs, self.samples, rescale=False)
            if 'pred_instances' not in sample:
                raise UsageError(
                    f'this {type(self.model).__name__} predicts no objects whose scores could be '
                    'explained: test with --cfg-options model.test_cfg.instance_on=True.'
                )
            self.found = sample.pred_instances
            return self.found.scores[None]
        outputs = head(self.model.extract_feat(inputs))
        metas = [sample.metainfo for sample in self.samples]
        (self.found,) = head.predict_by_feat(*outputs, batch_img_metas=metas)
        # levels of shape (1, anchors * classes, H, W)
        levels = [
            level.permute(0, 2, 3, 1).reshape(-1, head.cls_out_channels) for level in outputs[0]
        ]
        return self._find_scores(torch.cat(levels))[None]

    def _find_scores(self, scores: Tensor) -> Tensor:
        found = []
        for score, label in zip(self.found.scores, self.found.labels, strict=True):
            distance = (scores[:, label].detach().sigmoid() - score).abs()
            nearest = distance.argmin()
            if distance[nearest] > 1e-5:
                raise UsageError(
                    f'the scores of {type(self.model.bbox_head).__name__} are not its class scores '
                    'alone: take a RetinaNet or a two-stage detector.'
                )
            found.append(scores[nearest, label])
        return torch.stack(found) if found else scores.new_zeros(0)

    def choose(self, scores: Tensor, request: Request) -> Target | None:
        """The wanted box, or the best one, of all or of the wanted class."""
        wanted = self._wanted_class(request, len(self.classes) or math.inf)
        boxes = self.found.bboxes.detach()
        candidates = [
            i for i, label in enumerate(self.found.labels) if wanted in (None, int(label))
        ]
        if not candidates:
            return None
        number = request.box or 0
        if not 0 <= number < len(candidates):
            raise UsageError(
                f'--box {number} is out of range: the boxes found in the image are 0 to '
                f'{len(candidates) - 1}.'
            )
        i = candidates[number]
        label, score = int(self.found.labels[i]), 100 * self.found.scores[i].item()
        caption = f'{self._class_name(label)} {score:.1f} %'
        return Target(caption, lambda out: out[i], box=boxes[i].tolist())


KINDS = {
    'classification': ExplainedClassifier,
    'detection': ExplainedDetector,
    'segmentation': ExplainedSegmentor,
}
