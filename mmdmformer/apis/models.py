# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The classifiers and their multi-scale features as plain modules, by name and without a config.

The names are those of the classification configs, which stay the only description of the networks:
``configs/dmformer/dmformer-s_8xb128_in1k.py`` is ``dmformer_small``.
"""

import difflib
import functools
import logging
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn

from .. import backbones
from ..checkpoints import (
    CheckedPretrainedInit,
    find_weights,
    input_channels,
    read_checkpoint,
    shipped_file,
)
from ..engine.model import without_init_log
from ..layers import BackboneContract

_CONFIGS = '*/*_in1k.py', 'mini/*_mini-imagenet.py'
# What benchmarks/real/run.py trained, by the model's name.
_WEIGHTS = dict(dmformer_nano='dmformer-nano_cifar10')
_SIZES = dict(t='tiny', s='small', b='base', l='large')
# What gives maps where a classifier's backbone gives one token.
MAPS: dict[str, dict] = dict(PVTACmix=dict(cls_token=False), DynamicViT=dict(out_type='featmap'))


def list_models(pattern: str = '*') -> list[str]:
    """List the names that :func:`get_model` takes.

    Args:
        pattern (str): Wildcards as in a shell. Defaults to all.

    Returns:
        list[str]: The names, sorted.

    Examples:
        >>> list_models('dmformer_[ln]*')
        ['dmformer_large', 'dmformer_nano']
    """
    return [name for name in sorted(_config_files()) if fnmatch(name, pattern)]


def get_model(
    name: str,
    pretrained: str | Path | bool | None = None,
    features_only: bool = False,
    out_indices: int | Sequence[int] = (0, 1, 2, 3),
    num_classes: int | None = None,
    in_channels: int = 3,
    **options: Any,
) -> nn.Module:
    """Build a network, randomly initialized or with the weights of a checkpoint.

    Images go in normalized; :func:`data_settings` says how. The module is in
    training mode, as all new ones are.

    Args:
        name (str): One of :func:`list_models`.
        pretrained (str | Path | bool, optional): Checkpoint of a classifier,
            a file or URL, or True for the weights that come with the package:
            those of ``dmformer_nano``, trained on the ten classes of
            CIFAR-10, which the model then names as ``classes``. A head for
            another number of classes is left out, which the log says; all
            else must fit. Defaults to None.
        features_only (bool): Whether to return the stages' maps instead of
            logits. Defaults to False.
        out_indices (int | Sequence[int]): With ``features_only``, the stages;
            negative ones count from the end. Defaults to (0, 1, 2, 3).
        num_classes (int, optional): Classes; 0 gives the pooled features.
            Defaults to 1000, and with ``pretrained=True`` to those of the
            weights.
        in_channels (int): Channels of the image. Defaults to 3.
        **options: Further arguments of the backbone, such as
            ``drop_path_rate``.

    Returns:
        nn.Module: A :class:`Classifier`, or with ``features_only`` a
        :class:`FeatureExtractor`.

    Raises:
        ValueError: If there is no such name, or no weights of that name come
            with the package.
        ImportError: If the network builds on a toolbox that is missing.
        RuntimeError: If the checkpoint does not fit.

    Examples:
        >>> model = get_model('dmformer_nano', num_classes=10).eval()
        >>> model(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
        >>> model = get_model('dmformer_nano', features_only=True, out_indices=(1, 3)).eval()
        >>> [tuple(x.shape) for x in model(torch.rand(1, 3, 64, 96))]
        [(1, 32, 8, 12), (1, 128, 2, 3)]
        >>> model.feature_info.channels(), model.feature_info.reduction()
        ([32, 128], [8, 32])
    """
    options['in_channels'] = in_channels
    classes: tuple[str, ...] = ()
    if pretrained is True:
        pretrained = shipped_weights(name)
        classes = tuple(read_checkpoint(str(pretrained))['meta']['dataset_meta']['classes'])
    if features_only:
        backbone = build_features(name, out_indices=out_indices, **options)
        if pretrained:
            _load_features(backbone, build_backbone(name, **options), str(pretrained))
        build = functools.partial(build_features, name, **options)
        return FeatureExtractor(backbone, describe_stages(backbone, build))
    if num_classes is None:
        num_classes = len(classes) or 1000
    model = Classifier(build_backbone(name, **options), num_classes)
    if pretrained:
        _load(model, str(pretrained))
    model.classes = classes if num_classes == len(classes) else ()
    return model


def shipped_weights(name: str) -> Path:
    """Find the weights of a model that come with the package.

    Args:
        name (str): One of :func:`list_models`.

    Returns:
        Path: The file.

    Raises:
        ValueError: If there are none of that name.
    """
    _read(name)  # there must be such a model
    if name not in _WEIGHTS:
        raise ValueError(
            f'pretrained=True: no weights of {name} come with the package, only those of '
            f'{", ".join(_WEIGHTS)}: give pretrained the file of a checkpoint.'
        )
    return shipped_file(_WEIGHTS[name])


def data_settings(name: str) -> dict[str, Any]:
    """Say how a model's images are prepared in its recipe.

    Args:
        name (str): One of :func:`list_models`.

    Returns:
        dict: ``image_size`` in pixels; ``crop_pct``, the share of the shorter
        side that the center crop keeps; ``interpolation``; ``mean`` and
        ``std`` of RGB values from 0 to 1.

    Examples:
        >>> settings = data_settings('dmformer_small')
        >>> settings['image_size'], round(settings['crop_pct'], 2), settings['interpolation']
        (224, 0.9, 'bicubic')
    """
    cfg = _read(name)
    steps = {step['type']: step for step in cfg.test_pipeline}
    size = steps['CenterCrop']['crop_size']
    return dict(
        image_size=size,
        crop_pct=size / steps['ResizeEdge']['scale'],
        interpolation=steps['ResizeEdge']['interpolation'],
        mean=tuple(round(x / 255, 6) for x in cfg.model.data_preprocessor.mean),
        std=tuple(round(x / 255, 6) for x in cfg.model.data_preprocessor.std),
    )


def names_without_decay(name: str) -> list[str]:
    """List the parts of parameters' names that exempt from weight decay in a model's recipe.

    Args:
        name (str): One of :func:`list_models`.

    Returns:
        list[str]: The parts.

    Examples:
        >>> names_without_decay('swin_tiny_acmix')
        ['relative_position_bias_table']
    """
    rules = _read(name).optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', {})
    return [part for part, rule in rules.items() if rule.get('decay_mult') == 0]


def is_available(name: str) -> bool:
    """Tell whether the toolbox that a model builds on is installed."""
    return _read(name).model.backbone.type in backbones.__all__


class LinearHead(nn.Module):
    """Global average pooling and a linear layer, named as in mmpretrain's ``LinearClsHead``.

    Args:
        channels (int): Channels of the features.
        num_classes (int): Classes; 0 for none, which gives the pooled
            features.
        drop_rate (float): Probability of dropping a feature. Defaults to 0.
    """

    def __init__(self, channels: int, num_classes: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(drop_rate)
        self.fc: nn.Module = nn.Identity()
        if num_classes > 0:
            self.fc = nn.Linear(channels, num_classes)
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map maps of shape (B, C, H, W), or vectors of shape (B, C), to logits.

        Args:
            x (Tensor): The features.
            pre_logits (bool): Whether to leave the linear layer out.
                Defaults to False.

        Returns:
            Tensor: Of shape (B, num_classes), or (B, C).
        """
        x = self.drop(x.mean((2, 3)) if x.dim() == 4 else x)
        return x if pre_logits else self.fc(x)


class Classifier(nn.Module):
    """A backbone with a linear head; its weights are named as those of a config's classifier.

    Args:
        backbone (BackboneContract): The backbone, whose last output is classified.
        num_classes (int): Classes; 0 for pooled features.

    Attributes:
        classes (tuple[str, ...]): Their names, where weights that come with
            the package are loaded; else none.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, backbone: BackboneContract, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = LinearHead(backbone.out_channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (B, in_channels, H, W) to logits of shape (B, num_classes)."""
        return self.head(self.backbone(x)[-1])


class FeatureInfo:
    """Channels and reductions of a backbone's outputs, under the names that timm gives them.

    Args:
        stages (list[dict]): What :func:`describe_stages` gives.
        out_indices (Sequence[int]): The stages that are returned.
    """

    def __init__(self, stages: list[dict[str, Any]], out_indices: Sequence[int]) -> None:
        self.info, self.out_indices = stages, tuple(out_indices)

    def channels(self) -> list[int]:
        """Channels of each output."""
        return [self.info[i]['num_chs'] for i in self.out_indices]

    def reduction(self) -> list[int]:
        """How many times smaller than the image each output is."""
        return [self.info[i]['reduction'] for i in self.out_indices]


class FeatureExtractor(nn.Module):
    """A backbone whose outputs describe themselves.

    Args:
        backbone (BackboneContract): The backbone.
        stages (list[dict]): What :func:`describe_stages` gives.

    Attributes:
        feature_info (FeatureInfo): Channels and reductions.
    """

    def __init__(self, backbone: BackboneContract, stages: list[dict[str, Any]]) -> None:
        super().__init__()
        self.backbone = backbone
        self.feature_info = FeatureInfo(stages, backbone.out_indices)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images of shape (B, in_channels, H, W) to maps, from fine to coarse."""
        return list(self.backbone(x))


def describe_stages(backbone: BackboneContract, build: Callable[..., Any]) -> list[dict[str, Any]]:
    """Describe every stage of a backbone, whether it returns it or not.

    Args:
        backbone (BackboneContract): The backbone.
        build (Callable): Builds another like it, which returns maps, with
            other ``out_indices``.

    Returns:
        list[dict]: As timm has it: channels ``num_chs``, ``reduction`` of the
        height and width, the ``module`` that computes it, and its ``index``.
    """
    every = tuple(range(len(backbone.stage_parts())))
    whole = backbone
    if backbone.out_indices != every:
        with without_init_log():
            whole = build(out_indices=every)
    sides = [out.shape[-1] for out in _outputs_without_values(whole)]
    modules = {id(module): name for name, module in backbone.named_modules()}
    return [
        dict(
            num_chs=whole.out_channels[i],
            reduction=_PROBE_SIDE // sides[i],
            # Some parts are lists made for the purpose, whose last module gives the output.
            module=modules.get(id(part)) or modules[id(list(part.children())[-1])],
            index=i,
        )
        for i, part in enumerate(backbone.stage_parts())
    ]


def build_backbone(name: str, **options: Any) -> BackboneContract:
    """Build the backbone of a classifier with initial weights.

    Args:
        name (str): One of :func:`list_models`.
        **options: Arguments to add to its config's.

    Returns:
        BackboneContract: The backbone.
    """
    with without_init_log():
        backbone = MODELS.build({**backbone_settings(name), **options})
        backbone.init_weights()
    return backbone


def build_features(name: str, **options: Any) -> BackboneContract:
    """Build a backbone as :func:`build_backbone` does, whose outputs are maps in any case."""
    maps = MAPS.get(backbone_settings(name)['type'], {})
    return build_backbone(name, **maps, **options)


def backbone_settings(name: str) -> dict[str, Any]:
    """The arguments of a model's backbone, without those that concern its training.

    Args:
        name (str): One of :func:`list_models`.

    Returns:
        dict: The arguments and the ``type``.

    Raises:
        ValueError: If there is no such name.
        ImportError: If the backbone builds on a toolbox that is missing.
    """
    settings = _read(name).model.backbone.to_dict()
    if not is_available(name):
        toolbox = backbones.toolbox_of(settings['type'])
        raise ImportError(
            f'{name} builds on {toolbox}, which is not installed: install it, or take one of '
            f'{", ".join(list_models("dmformer*"))}.'
        )
    training = ('init_cfg', 'drop_path_rate')
    return {key: value for key, value in settings.items() if key not in training}


@functools.cache
def _config_files() -> dict[str, Path]:
    # In the checkout, or beside the installed package.
    package = Path(__file__).parents[1]
    places = package / '.mim/configs', package.parent / 'configs'
    folder = next((place for place in places if place.is_dir()), places[0])
    files = [path for pattern in _CONFIGS for path in folder.glob(pattern)]
    return {_model_name(path.stem): path for path in files}


def _model_name(config: str) -> str:
    """Spell the name of a config as that of a model.

    Examples:
        >>> _model_name('resnet-acmix-26_8xb32_in1k')
        'resnet26_acmix'
        >>> _model_name('dmformer-s-no-gate_8xb128_in1k')
        'dmformer_small_no_gate'
    """
    family, *words = config.split('_')[0].split('-')
    if words[0] == 'acmix':  # how large the host is comes first
        words[:2] = words[1::-1]
    name = '_'.join([family, *(_SIZES.get(word, word) for word in words)])
    return re.sub(r'_(\d+)(?=_|$)', r'\1', name)


@functools.cache
def _read(name: str) -> Config:
    files = _config_files()
    if name not in files:
        close = difflib.get_close_matches(name, files, n=3, cutoff=0.4)
        hint = f'did you mean {" or ".join(close)}?' if close else 'see list_models().'
        raise ValueError(f'there is no model {name!r}: {hint}')
    return Config.fromfile(files[name], import_custom_modules=False)


_PROBE_SIDE = 224  # pixels


@torch.no_grad()
def _outputs_without_values(backbone: nn.Module) -> Sequence[Tensor]:
    """Run a backbone on tensors that have a shape and nothing else, which takes no time."""
    state = {name: tensor.to('meta') for name, tensor in backbone.state_dict().items()}
    images = torch.empty(1, input_channels(backbone), _PROBE_SIDE, _PROBE_SIDE, device='meta')
    return torch.func.functional_call(backbone, state, images)


def _load_features(backbone: nn.Module, classifiers: nn.Module, checkpoint: str) -> None:
    """Load the checkpoint into the classifier's backbone, which it must fit, and take its weights.

    Maps have no use for a class token, and those of Swin have norms of their own, which are new.
    """
    CheckedPretrainedInit(checkpoint)(classifiers)
    expected = backbone.state_dict()
    weights = {
        name: tensor for name, tensor in classifiers.state_dict().items() if name in expected
    }
    backbone.load_state_dict(weights, strict=False)


def _load(model: Classifier, checkpoint: str) -> None:
    content = read_checkpoint(checkpoint)
    weight = find_weights(content).get('head.fc.weight')
    ours = getattr(model.head.fc, 'weight', None)
    if weight is not None and (ours is None or len(weight) != len(ours)):
        CheckedPretrainedInit(checkpoint, prefix='backbone.')(model.backbone)
        print_log(
            f'The head of {checkpoint} is for {len(weight)} classes and was left out.',
            logger='current',
            level=logging.WARNING,
        )
    else:
        CheckedPretrainedInit(checkpoint, prefix='')(model)
