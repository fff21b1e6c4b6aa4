# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What a config builds as one module from RGB values to results, which exporters can follow."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..analysis.loaded_model import class_names
from ..checkpoints import find_backbones, input_channels, load_complete, predicting_model
from ..engine.model import build_model, toolbox_of
from .resampling import make_exportable

STAGES = (0, 1, 2, 3)
_CLASSIFIER_HEADS = ('LinearClsHead', 'MultiLabelLinearClsHead')
_FIXED_TO_A_SIZE = (
    'ConvSwin',
    'DynamicSwin',
    'DynamicViT',
    'PVTACmix',
    'ResNetACmix',
    'SAN',
    'SANACmix',
    'SwinACmix',
)


class Network(nn.Module):
    """A network from pixels to results; a base of those below.

    Normalization and padding are part of it, so that whoever calls it needs
    no numbers of the config. Where "RGB values" are spoken of, a network that
    takes another number C of channels gets them as its config loads them.

    Args:
        model (BaseModel): The model of a config, in evaluation mode.

    Attributes:
        in_channels (int): Channels C of an image.
        input_names (Sequence[str]): Names of the inputs.
        output_names (Sequence[str]): Names of the outputs.
        example_sides (tuple[int, int]): Sides of an image to export with.
            They differ, which keeps exporters from taking one for the other,
            and leave no map one pixel high or wide, which torch.export would
            take for the rule.
        classes (Sequence[str] | None): Their names, where known.
        counts (str | None): What there must be enough of in the pictures of a
            comparison.
        takes_several_sizes (bool): Whether the toolbox puts pictures of several
            sizes into one batch, filled up to the largest sides.
    """

    input_names: Sequence[str] = ('images',)
    output_names: Sequence[str]
    example_sides = (64, 96)
    counts: str | None = None
    takes_several_sizes = True
    mean: Tensor
    std: Tensor

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.backbone = first_backbone(model)
        self.in_channels = input_channels(self.backbone)
        preprocessor = model.data_preprocessor
        # Each toolbox has its own name for the conversion of what it loads, which is BGR.
        self.takes_images_as_given = self.in_channels != 3 or any(
            getattr(preprocessor, name, False)
            for name in ('to_rgb', 'channel_conversion', '_channel_conversion')
        )
        for name, default in (('mean', torch.zeros(1)), ('std', torch.ones(1))):
            values = getattr(preprocessor, name, default)
            self.register_buffer(name, values.flatten()[:, None, None].float())
        self.divisor, self.pad_value = _padding(preprocessor)
        self.classes = getattr(model, 'dataset_meta', {}).get('classes')

    def prepare(self, images: Tensor) -> Tensor:
        """Normalize and pad RGB values from 0 to 255 as the config says."""
        images = images if self.takes_images_as_given else images.flip(1)
        images = (images - self.mean) / self.std
        if self.divisor == 1:
            return images
        height, width = images.shape[2:]
        sides = (0, -width % self.divisor, 0, -height % self.divisor)
        return F.pad(images, sides, value=self.pad_value)

    def example(self) -> tuple[Tensor, ...]:
        """Make inputs to export with: images of shape (2, C, H, W), and sizes if it takes them."""
        images = torch.rand(2, self.in_channels, *self.example_sides) * 255
        return (images, torch.tensor([self.example_sides] * 2))[: len(self.input_names)]

    def extract(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the stages' maps of RGB values from 0 to 255."""
        return self.backbone(self.prepare(images))

    def describe(self) -> dict[str, Any]:
        """Say what :meth:`prepare` does to values of the input, and what the outputs are."""
        order = slice(None) if self.takes_images_as_given else slice(None, None, -1)
        mean, std = (t.flatten().double().numpy()[order] for t in (self.mean, self.std))
        value = np.broadcast_to(mean + self.pad_value * std, self.in_channels)
        return dict(
            normalization=dict(mean=mean.tolist(), std=std.tolist(), where='in the network'),
            padding=dict(
                where='right and bottom',
                divisor=self.divisor,
                divisor_where='in the network',
                value=value.tolist(),
                several_sizes=self.takes_several_sizes,
            ),
            outputs=self.describe_outputs(),
            **self.decisions(),
        )

    def describe_outputs(self) -> dict[str, str]:
        """Say what each output is."""
        raise NotImplementedError

    def decisions(self) -> dict[str, Any]:
        """How results are made of the outputs, or were already."""
        return {}

    def results(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Turn the outputs into what the toolbox's model predicts."""
        return outputs

    @staticmethod
    def predicted(model: BaseModel, data: dict) -> Sequence[Tensor]:
        """What the toolbox's model gives for a batch of its data loader, as :meth:`results`."""
        raise NotImplementedError


class Stages(Network):
    """The maps of a backbone's four stages, from fine to coarse."""

    output_names = tuple(f'stage_{i + 1}' for i in STAGES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images of shape (B, C, H, W) to maps of shape (B, C_i, H_i, W_i)."""
        return tuple(self.extract(images))

    def describe_outputs(self) -> dict[str, str]:
        """The maps."""
        return {name: f'map of stride {4 * 2**i}' for i, name in enumerate(self.output_names)}

    @staticmethod
    def predicted(model: BaseModel, data: dict) -> Sequence[Tensor]:
        """The backbone's maps of what the model's data preprocessor gives."""
        return first_backbone(model)(model.data_preprocessor(data, False)['inputs'])


class Classifier(Network):
    """The logits of a classifier."""

    output_names = ('logits',)

    def __init__(self, model: BaseModel) -> None:
        super().__init__(model)
        self.neck, self.head = model.neck, model.head
        self.several_labels = type(self.head).__name__ == 'MultiLabelLinearClsHead'

    def forward(self, images: Tensor) -> Tensor:
        """Map images of shape (B, C, H, W) to logits of shape (B, classes)."""
        features = self.extract(images)
        if self.neck is not None:
            features = self.neck(features)
        return self.head(features)

    def describe_outputs(self) -> dict[str, str]:
        """The logits."""
        return dict(logits='of the classes, for the whole picture')

    def decisions(self) -> dict[str, Any]:
        """How scores are made of logits, and from which on a label is one of several."""
        if not self.several_labels:
            return dict(scores='softmax')
        return dict(scores='sigmoid', threshold=self.head.thr, top_k=self.head.topk)

    def results(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The scores of the logits, for one class of an image or for several."""
        (logits,) = outputs
        return (logits.sigmoid() if self.several_labels else logits.softmax(1),)

    @staticmethod
    def predicted(model: BaseModel, data: dict) -> Sequence[Tensor]:
        """The scores of the classes."""
        return (torch.stack([sample.pred_score for sample in model.test_step(data)]),)


class Segmentor(Network):
    """The logits of a segmentor at the size of the images, and the classes of the pixels."""

    output_names = ('logits', 'labels')
    counts = 'pixels of objects'
    takes_several_sizes = False

    def __init__(self, model: BaseModel) -> None:
        super().__init__(model)
        self.neck = model.neck if model.with_neck else nn.Identity()
        self.head = model.decode_head
        make_exportable(self.head)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images of shape (B, C, H, W) to (B, classes, H, W) and (B, H, W)."""
        logits = self.logits(images)
        return logits, self.labels(logits)

    def logits(self, images: Tensor) -> Tensor:
        """Map images of shape (B, C, H, W) to (B, classes, H, W)."""
        height, width = images.shape[2:]
        padded = self.prepare(images)
        logits = self.head(self.neck(self.backbone(padded)))
        logits = F.interpolate(
            logits, padded.shape[2:], mode='bilinear', align_corners=self.head.align_corners
        )
        return logits if self.divisor == 1 else logits[..., :height, :width]

    def labels(self, logits: Tensor) -> Tensor:
        """Choose the class of each pixel, of shape (B, H, W)."""
        if self.head.out_channels == 1:  # two classes, told apart by a threshold
            return (logits.sigmoid() > self.head.threshold)[:, 0].long()
        return logits.argmax(1)

    def describe_outputs(self) -> dict[str, str]:
        """Logits and labels at the size of the input."""
        return dict(
            logits='at the size of the input; those of the picture are scaled, bilinear without '
            'antialiasing',
            labels='at the size of the input; those of the picture come from scaled logits',
        )

    def decisions(self) -> dict[str, Any]:
        """How logits are scaled, and from which on a pixel is of the second class."""
        about = dict(align_corners=self.head.align_corners)
        if self.head.out_channels > 1:
            return about
        score = self.head.threshold
        return dict(about, threshold=math.log(score / (1 - score)), threshold_of='logits')

    def results(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The logits, or the scores of a single channel, and the labels.

        A runtime that cannot choose the class of a pixel gives the logits alone.
        """
        logits, labels = outputs if len(outputs) > 1 else (outputs[0], self.labels(outputs[0]))
        return logits.sigmoid() if self.head.out_channels == 1 else logits, labels

    @staticmethod
    def predicted(model: BaseModel, data: dict) -> Sequence[Tensor]:
        """The logits or scores, and the labels."""
        samples = model.test_step(data)
        labels = torch.cat([sample.pred_sem_seg.data for sample in samples])
        return torch.stack([sample.seg_logits.data for sample in samples]), labels.long()


class RetinaMaps(Network):
    """The maps of a RetinaNet's head, before they are decoded."""

    example_sides = (320, 416)  # strides go up to 128

    def __init__(self, model: BaseModel) -> None:
        super().__init__(model)
        self.neck, self.head = model.neck, model.bbox_head
        levels = range(self.neck.num_outs)
        self.output_names = (*(f'scores_{i}' for i in levels), *(f'deltas_{i}' for i in levels))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images to logits of shape (B, A C, H_i, W_i), then offsets of (B, A 4, H_i, W_i)."""
        scores, deltas = self.maps(images)
        return *scores, *deltas

    def maps(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The same in two lists."""
        return self.head(self.neck(self.extract(images)))

    def describe_outputs(self) -> dict[str, str]:
        """The maps."""
        what = dict(scores='logits of each anchor and class', deltas="offsets of each anchor's box")
        return {
            name: f'{what[name.split("_")[0]]}, stride {self.head.prior_generator.strides[i][0]}'
            for i, name in zip(2 * [*range(self.neck.num_outs)], self.output_names, strict=True)
        }

    @staticmethod
    def predicted(model: BaseModel, data: dict) -> Sequence[Tensor]:
        """The maps of the model's head."""
        scores, deltas = model(**model.data_preprocessor(data, False), mode='tensor')
        return *scores, *deltas


class RetinaBoxes(RetinaMaps):
    """The boxes of a RetinaNet."""

    counts = 'boxes'

    def __init__(self, model: BaseModel) -> None:
        from .boxes import BoxDecoder

        super().__init__(model)
        self.decoder = BoxDecoder(self.head)
        self.output_names = ('boxes', 'scores', 'labels', 'images_of_boxes')
        if self.decoder.coder.clip_border:
            self.input_names = ('images', 'sizes')

    def forward(
        self, images: Tensor, sizes: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map images to M boxes: see :class:`~.boxes.BoxDecoder`.

        Args:
            images (Tensor): Of shape (B, C, H, W).
            sizes (Tensor, optional): Height and width of each picture, without
                what fills it up to the sides of the batch, int64 of shape (B, 2).
                Defaults to None, for pictures that fill it.

        Returns:
            tuple[Tensor]: Boxes, scores, labels, and the image of each.
        """
        height, width = images.shape[2:]
        if sizes is None:
            sizes = torch.full((1, 2), max(images.shape))
        rows, columns = sizes.unbind(1)
        sizes = torch.stack((rows.clamp(max=height), columns.clamp(max=width)), 1)
        return self.decoder(*self.maps(images), sizes)

    def describe_outputs(self) -> dict[str, str]:
        """The boxes."""
        return dict(
            boxes='corners x1, y1, x2, y2 in pixels of the input: divide them by the factors of '
            'width and height by which the picture was scaled',
            scores='from 0 to 1, the best of an image first',
            labels='indices into the classes',
            images_of_boxes='which image of the batch each box belongs to',
        )

    def decisions(self) -> dict[str, Any]:
        """What the network itself applies."""
        return dict(thresholds=self.decoder.thresholds())

    @staticmethod
    def predicted(model: BaseModel, data: dict) -> Sequence[Tensor]:
        """The corners, scores and labels of the boxes, and the image of each."""
        found = [sample.pred_instances for sample in model.test_step(data)]
        parts = [torch.cat([each[k] for each in found]) for k in ('bboxes', 'scores', 'labels')]
        return *parts, torch.cat([torch.full((len(each),), i) for i, each in enumerate(found)])


def _padding(preprocessor: Any) -> tuple[int, float]:
    """To which multiple of pixels the toolbox pads a tested image, and with what."""
    if hasattr(preprocessor, 'size_divisor'):  # mmseg, whose own divisor is for training
        settings = preprocessor.test_cfg or {}
        if settings.get('size') is not None:
            raise ValueError(
                f'model.data_preprocessor.test_cfg.size={tuple(settings["size"])} pads to one '
                'size, and an exported network is for any: test with size_divisor instead.'
            )
        return settings.get('size_divisor') or 1, preprocessor.pad_val
    divisor = getattr(preprocessor, 'pad_size_divisor', 1)
    return divisor, getattr(preprocessor, 'pad_value', 0)


def load_model(
    cfg: Config, checkpoint: str, backbone_only: bool = False, raw: bool = False
) -> tuple[type[Network], BaseModel]:
    """Build a config's model with the weights of a checkpoint, as its toolbox does.

    Args:
        cfg (Config): Config of the model.
        checkpoint (str): Its checkpoint, .pth or .safetensors.
        backbone_only (bool): Whether to export the backbone alone, with all
            stages as outputs. Defaults to False.
        raw (bool): Whether a detector gives the maps of its head instead of
            boxes. Defaults to False.

    Returns:
        tuple[type[Network], BaseModel]: What it is exported as, and the model,
        in evaluation mode.

    Raises:
        ValueError: If the model cannot be exported, or an option does not fit
            it.
        CheckpointError: If the checkpoint does not fit.
    """
    model = build_model(cfg)
    tested = predicting_model(model)
    _check_backbone(cfg, tested)
    kind = Stages if backbone_only else _kind(cfg, tested, raw)
    if raw and not issubclass(kind, RetinaMaps):
        raise ValueError(
            f'--raw is for a RetinaNet, and {_name(cfg)} has a {type(tested).__name__}.'
        )
    meta = load_complete(model, checkpoint).get('meta', {})
    tested.dataset_meta = dict(classes=class_names(cfg, meta) or None)
    tested.eval()  # of some models it returns nothing
    if backbone_only:
        first_backbone(tested).out_indices = STAGES
    return kind, tested


def build_network(
    cfg: Config, checkpoint: str, backbone_only: bool = False, raw: bool = False
) -> Network:
    """Build a config's model as a network for export, with the backbone's norms folded.

    Arguments and errors are those of :func:`load_model`.

    Returns:
        Network: In evaluation mode.
    """
    kind, model = load_model(cfg, checkpoint, backbone_only, raw)
    backbone = first_backbone(model)
    if hasattr(backbone, 'switch_to_deploy'):
        backbone.switch_to_deploy()
    return kind(model).eval().requires_grad_(False)


def check_supported(network: Network, runtime: str, pads: bool = True) -> None:
    """Check that a runtime without some operators can run a network.

    Args:
        network (Network): The network.
        runtime (str): Its name. It has no operator that chooses boxes.
        pads (bool): Whether it can pad to multiples of a divisor. Defaults to True.

    Raises:
        ValueError: If it cannot.
    """
    if isinstance(network, RetinaBoxes):
        raise ValueError(
            f'{runtime} has no operator for the choice of boxes: write the maps of the head with '
            '--raw, or ONNX or OpenVINO.'
        )
    if not pads and network.divisor != 1:
        raise ValueError(
            f'{runtime} cannot pad to multiples of {network.divisor} pixels: test with pictures of '
            'such sides, and without the padding of model.data_preprocessor.'
        )


def first_backbone(model: nn.Module) -> Any:
    """A model's backbone, wherever it is; of several the first that is trained."""
    backbones = list(find_backbones(model).values())
    if not backbones:
        raise ValueError(f'a {type(model).__name__} has no backbone that could be exported.')
    return backbones[0]


def _check_backbone(cfg: Config, model: nn.Module) -> None:
    name = type(first_backbone(model)).__name__
    if name in _FIXED_TO_A_SIZE:
        raise ValueError(
            f'{_name(cfg)} has the backbone {name}, which cannot be exported, as the windows and '
            'positions of its attention follow the sides of the image in ways that exporters tie '
            'to one size: take a DMFormer, or a backbone of convolutions.'
        )


def _kind(cfg: Config, model: BaseModel, raw: bool) -> type[Network]:
    """Which network a model becomes, or a sentence on why it cannot."""
    kind = type(model).__name__
    if kind == 'ImageClassifier' and type(model.head).__name__ in _CLASSIFIER_HEADS:
        return Classifier
    if kind == 'EncoderDecoder' and type(model.decode_head).__name__ in ('FPNHead', 'UPerHead'):
        mode = model.test_cfg.get('mode', 'whole')
        if mode != 'whole':
            raise ValueError(
                f'{_name(cfg)} tests with mode {mode!r}, which is a loop over windows and no '
                'network: export it with --cfg-options model.test_cfg.mode=whole.'
            )
        return Segmentor
    if kind == 'RetinaNet':
        return RetinaMaps if raw else RetinaBoxes
    if hasattr(model, 'roi_head'):
        reason = (
            'its heads run on crops (RoIAlign of each level) of a number of proposals that '
            'depends on the image'
        )
    else:
        reason = f'there is no network for models of this type of {toolbox_of(cfg)}'
    raise ValueError(
        f'{_name(cfg)} has a {kind}, which cannot be exported, as {reason}: export its '
        'backbone with --backbone, or a RetinaNet, a classifier or a segmentor with FPNHead or '
        'UPerHead.'
    )


def _name(cfg: Config) -> str:
    return Path(cfg.filename or 'the config').name
