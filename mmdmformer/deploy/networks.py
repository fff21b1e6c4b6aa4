# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What a config builds as one module from RGB values to results, which exporters can follow."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from ..checkpoints import load_complete
from ..engine.model import build_model, toolbox_of
from ..registry import type_name
from .resampling import make_exportable

STAGES = (0, 1, 2, 3)
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

    The normalisation is part of it, so that whoever calls it needs no numbers
    of the config.

    Args:
        model (nn.Module): The model of a config, in evaluation mode.

    Attributes:
        output_names (Sequence[str]): Names of the outputs.
        example_sides (tuple[int, int]): Sides of an image to export with.
            They differ, which keeps exporters from taking one for the other,
            and leave no map one pixel high or wide, which torch.export would
            take for the rule.
    """

    output_names: Sequence[str]
    example_sides = (64, 96)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = model.backbone
        preprocessor = model.data_preprocessor
        # Each toolbox has its own name for the conversion of what it loads, which is BGR.
        self.takes_rgb = any(
            getattr(preprocessor, name, False)
            for name in ('to_rgb', 'channel_conversion', '_channel_conversion')
        )
        for name, default in (('mean', torch.zeros(3)), ('std', torch.ones(3))):
            values = getattr(preprocessor, name, default)
            self.register_buffer(name, values.flatten()[:, None, None].float())

    def normalise(self, images: Tensor) -> Tensor:
        """Prepare RGB values from 0 to 255 as the config says."""
        return ((images if self.takes_rgb else images.flip(1)) - self.mean) / self.std

    def example(self) -> Tensor:
        """Make images to export with, of shape (2, 3, H, W)."""
        return torch.rand(2, 3, *self.example_sides) * 255

    def extract(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the stages' maps of RGB values from 0 to 255."""
        return self.backbone(self.normalise(images))


class Stages(Network):
    """The maps of a backbone's four stages, from fine to coarse."""

    output_names = tuple(f'stage_{i + 1}' for i in STAGES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images of shape (B, 3, H, W) to maps of shape (B, C_i, H_i, W_i)."""
        return tuple(self.extract(images))


class Classifier(Network):
    """The logits of a classifier."""

    output_names = ('logits',)

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.neck, self.head = model.neck, model.head

    def forward(self, images: Tensor) -> Tensor:
        """Map images of shape (B, 3, H, W) to logits of shape (B, classes)."""
        features = self.extract(images)
        if self.neck is not None:
            features = self.neck(features)
        return self.head.fc(self.head.pre_logits(features))


class Segmentor(Network):
    """The logits of a segmentor at the size of the images, and the best classes."""

    output_names = ('logits', 'labels')

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.neck = model.neck if model.with_neck else nn.Identity()
        self.head = model.decode_head
        make_exportable(self.head)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images of shape (B, 3, H, W) to (B, classes, H, W) and (B, H, W)."""
        logits = self.head(self.neck(self.extract(images)))
        logits = F.interpolate(
            logits, images.shape[2:], mode='bilinear', align_corners=self.head.align_corners
        )
        return logits, logits.argmax(1)


class RetinaMaps(Network):
    """The maps of a RetinaNet's head, before they are decoded."""

    example_sides = (320, 416)  # strides go up to 128

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.neck, self.head = model.neck, model.bbox_head
        self.divisor = model.data_preprocessor.pad_size_divisor
        levels = range(self.neck.num_outs)
        self.output_names = (*(f'scores_{i}' for i in levels), *(f'deltas_{i}' for i in levels))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images to logits of shape (B, A C, H_i, W_i), then offsets of (B, A 4, H_i, W_i)."""
        scores, deltas = self.maps(images)
        return *scores, *deltas

    def maps(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The same in two lists."""
        height, width = images.shape[2:]
        # As mmdet pads: after the normalisation, at the right and at the bottom.
        padded = F.pad(
            self.normalise(images), (0, -width % self.divisor, 0, -height % self.divisor)
        )
        return self.head(self.neck(self.backbone(padded)))


class RetinaBoxes(RetinaMaps):
    """The boxes of a RetinaNet."""

    def __init__(self, model: nn.Module) -> None:
        from .boxes import BoxDecoder

        super().__init__(model)
        self.decoder = BoxDecoder(self.head)
        self.output_names = ('boxes', 'scores', 'labels', 'images_of_boxes')

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Map images to M boxes: see :class:`~.boxes.BoxDecoder`."""
        height, width = images.shape[2:]
        return self.decoder(*self.maps(images), (height, width))


def build_network(
    cfg: Config,
    checkpoint: str,
    backbone_only: bool = False,
    raw: bool = False,
    fold: bool = True,
) -> Network:
    """Build a config's model as a network for export, with the weights of a checkpoint.

    Args:
        cfg (Config): Config of the model.
        checkpoint (str): Its checkpoint, .pth or .safetensors.
        backbone_only (bool): Whether to build the backbone alone, with all
            stages as outputs. Defaults to False.
        raw (bool): Whether a detector gives the maps of its head instead of
            boxes. Defaults to False.
        fold (bool): Whether to fold the backbone's norms where it can.
            Defaults to True.

    Returns:
        Network: In evaluation mode.

    Raises:
        ValueError: If the model cannot be exported, or an option does not fit
            it.
        CheckpointError: If the checkpoint does not fit.
    """
    cfg = cfg.copy()
    _check_backbone(cfg)
    kind = Stages if backbone_only else _kind(cfg, raw)
    if raw and not issubclass(kind, RetinaMaps):
        raise ValueError(
            f'--raw is for a RetinaNet, and {_name(cfg)} has a {type_name(cfg.model.type)}.'
        )
    if backbone_only:
        cfg.model.backbone.out_indices = STAGES
    model = build_model(cfg).eval()
    load_complete(model, checkpoint)
    if fold and hasattr(model.backbone, 'switch_to_deploy'):
        model.backbone.switch_to_deploy()
    return kind(model).eval().requires_grad_(False)


def _check_backbone(cfg: Config) -> None:
    name = type_name(cfg.model.backbone.type)
    if name in _FIXED_TO_A_SIZE:
        raise ValueError(
            f'{_name(cfg)} has the backbone {name}, which cannot be exported, as the windows and '
            'positions of its attention follow the sides of the image in ways that exporters tie '
            'to one size: take a DMFormer, or a backbone of convolutions.'
        )


def _kind(cfg: Config, raw: bool) -> type[Network]:
    """Which network a config's model becomes, or a sentence on why it cannot."""
    model = cfg.model
    kind = type_name(model.type)
    if kind == 'ImageClassifier' and type_name(model.head.type) == 'LinearClsHead':
        return Classifier
    if kind == 'EncoderDecoder' and type_name(model.decode_head.type) in ('FPNHead', 'UPerHead'):
        mode = model.get('test_cfg', {}).get('mode', 'whole')
        if mode != 'whole':
            raise ValueError(
                f'{_name(cfg)} tests with mode {mode!r}, which is a loop over windows and no '
                'network: export it with --cfg-options model.test_cfg.mode=whole.'
            )
        return Segmentor
    if kind == 'RetinaNet':
        return RetinaMaps if raw else RetinaBoxes
    if 'roi_head' in model:
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
    return Path(cfg.filename).name
