# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The classifiers in timm's registry: import this module, then call ``timm.create_model``.

timm has no way to find models by itself, and importing it takes seconds; so nothing here happens at
``import mmdmformer``. Names that timm has already keep their meaning.

Examples:
    >>> import timm
    >>> model = timm.create_model('dmformer_nano', num_classes=10)
    >>> model.default_cfg['crop_pct'] > 0.9, model.get_classifier()
    (True, Linear(in_features=128, out_features=10, bias=True))
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .. import backbones
from ..engine.model import without_init_log
from ..layers import BackboneContract, normalize_out_indices
from . import models

try:
    from timm.models import (
        FeatureInfo,
        build_model_with_cfg,
        generate_default_cfgs,
        is_model,
        register_model,
    )
except ImportError as error:
    raise ImportError(
        'timm is needed to put models into its registry and not installed: '
        'pip install -r requirements/optional.txt, or the extra mmdmformer[optional].'
    ) from error

_FIRST_CONV = dict(
    BottleneckResNet='conv1',
    ConvSwin='patch_embed.projection',
    DMFormer='stem.0',
    DynamicSwin='patch_embed.projection',
    DynamicViT='patch_embed.projection',
    MetaFormer='stem.0',
    PVTACmix='layers.0.0.projection',
    ResNetACmix='conv1',
    SAN='stem.0',
    SANACmix='stem.0',
    SwinACmix='patch_embed.projection',
)


class TimmClassifier(BackboneContract):
    """What timm expects of a classifier, as a mixin in front of a backbone.

    The weights have the backbone's own names, and those of the classifier
    begin with ``head.fc``.

    Args:
        num_classes (int): Classes; 0 for pooled features. Defaults to 1000.
        in_chans (int): Channels of the image. Defaults to 3.
        global_pool (str): The pooling, which can be ``'avg'`` alone.
            Defaults to 'avg'.
        drop_rate (float): Probability of dropping a pooled feature.
            Defaults to 0.
        no_decay (Sequence[str]): Parts of the names of parameters that the
            recipe exempts from weight decay. Defaults to none.
        **options: Arguments of the backbone.

    Raises:
        ValueError: If ``global_pool`` is another.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = 'avg',
        drop_rate: float = 0.0,
        no_decay: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(in_channels=in_chans, **options)
        backbone = type(self).__bases__[1]
        maps = models.MAPS.get(backbone.__name__, {})
        self.build_like = functools.partial(backbone, in_channels=in_chans, **{**options, **maps})
        with without_init_log():
            self.init_weights()
        self.in_chans, self.drop_rate, self.no_decay = in_chans, drop_rate, tuple(no_decay)
        self.num_features = self.head_hidden_size = self.out_channels[-1]
        self.reset_classifier(num_classes, global_pool)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (B, in_chans, H, W) to logits of shape (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images to the backbone's last output, of shape (B, C, H', W') or (B, C)."""
        return super().forward(x)[-1]

    @functools.cached_property
    def feature_info(self) -> list[dict[str, Any]]:
        """What timm lists of each stage: ``num_chs``, ``reduction``, ``module`` and ``index``."""
        return models.describe_stages(self, self.build_like)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = 'NCHW',
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute the maps of stages, as timm's own models do.

        Args:
            x (Tensor): Images of shape (B, in_chans, H, W).
            indices (int | Sequence[int], optional): The stages; a number
                means so many, from the last one. Defaults to all.
            norm (bool): Of no effect: the maps are normalized as they are.
                Defaults to False.
            stop_early (bool): Of no effect: what no map needs is not computed
                with ``intermediates_only``. Defaults to False.
            output_fmt (str): The order of dimensions, which can be
                ``'NCHW'`` alone. Defaults to 'NCHW'.
            intermediates_only (bool): Whether to leave out the last map,
                which :meth:`forward_features` gives. Defaults to False.

        Returns:
            list[Tensor] | tuple[Tensor, list[Tensor]]: The maps of shape
            (B, num_chs, H', W') in ascending order of the stages; before
            them the last one.

        Raises:
            ValueError: If ``output_fmt`` is another, or the network gives
                such maps only where it is built for them.
        """
        if output_fmt != 'NCHW':
            raise ValueError(f"output_fmt={output_fmt!r} is not possible here: take 'NCHW'.")
        every = range(len(self.stage_parts()))
        if indices is None or isinstance(indices, int):
            indices = every[-(indices or 0) :]
        indices = sorted(i + len(every) * (i < 0) for i in indices)
        taken, last = normalize_out_indices(indices, len(every)), every[-1]
        with _returning(self, taken if intermediates_only else {*taken, last}):
            outputs = super().forward(x)
        maps = list(outputs[: len(taken)])
        return maps if intermediates_only else (outputs[-1], maps)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map the backbone's output to logits, or to pooled features."""
        return self.head(x, pre_logits)

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one.

        Args:
            num_classes (int): Classes; 0 for pooled features.
            global_pool (str, optional): As in the constructor.

        Raises:
            ValueError: If it is another.
        """
        if global_pool not in (None, 'avg'):
            raise ValueError(f"global_pool={global_pool!r} is not possible here: take 'avg'.")
        device = next(self.parameters()).device
        self.num_classes = num_classes
        self.head = models.LinearHead(self.num_features, num_classes, self.drop_rate).to(device)

    def no_weight_decay(self) -> set[str]:
        """Parameters that the recipe exempts from weight decay, beside those of one dimension."""
        names = (name for name, _ in self.named_parameters())
        return {name for name in names if any(part in name for part in self.no_decay)}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """Give timm the depth of a parameter, for layer-wise learning-rate decay."""

        def depth(name: str) -> int:
            if name.startswith('head.'):
                return self.get_layer_depth('', 'backbone.')[0]  # what comes after the backbone
            return self.get_layer_depth(name)[0]

        return depth

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Checkpoint activations in training, or not."""
        for module in self.modules():
            for flag in ('with_cp', 'checkpointed'):
                if hasattr(module, flag):
                    setattr(module, flag, enable)


@functools.cache
def _with_head(backbone: type) -> type:
    return type(f'Timm{backbone.__name__}', (TimmClassifier, backbone), {})


def _create(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    settings = models.backbone_settings(name)
    output_stride = kwargs.pop('output_stride', None)
    if kwargs.get('features_only'):
        out_indices = kwargs.pop('out_indices', (0, 1, 2, 3))
        if isinstance(out_indices, int):  # timm means so many, from the last one
            out_indices = tuple(range(-out_indices, 0))
        # This is for the extractor, which has been told by then.
        kwargs['feature_cls'] = lambda model, out_indices: _FeatureExtractor(model)
        build = functools.partial(_build_features, name, out_indices)
    else:
        backbone = getattr(backbones, settings.pop('type'))
        build = functools.partial(
            _with_head(backbone), no_decay=models.names_without_decay(name), **settings
        )
    model = build_model_with_cfg(build, name, pretrained, **kwargs)
    if output_stride is not None:
        stages: Any = getattr(model.feature_info, 'info', model.feature_info)
        if output_stride != stages[-1]['reduction']:
            raise ValueError(
                f'output_stride={output_stride} is not possible here: {name} has '
                f'{stages[-1]["reduction"]}, and no stage that can be dilated instead.'
            )
    return model


class _FeatureExtractor(models.FeatureExtractor):
    """A backbone that describes itself by timm's own class, and returns what it is told to.

    Args:
        backbone (BackboneContract): What :func:`_build_features` gives.

    Attributes:
        return_layers (Mapping[str, str]): Names of the modules whose maps are
            returned, as keys; clients may set it.
    """

    def __init__(self, backbone: BackboneContract) -> None:
        super().__init__(backbone, models.describe_stages(backbone, backbone.build_like))
        info = [
            {**stage, 'module': f'backbone.{stage["module"]}'} for stage in self.feature_info.info
        ]
        self.feature_info: Any = FeatureInfo(info, backbone.out_indices)
        self.return_layers = dict.fromkeys(self.feature_info.module_name())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images of shape (B, in_chans, H, W) to maps, from fine to coarse."""
        stages = self.feature_info.info
        indices = [stage['index'] for stage in stages if stage['module'] in self.return_layers]
        with _returning(self.backbone, indices):
            return super().forward(x)


@contextmanager
def _returning(backbone: BackboneContract, indices: Iterable[int]) -> Iterator[None]:
    """Let a backbone return the maps of other stages, which must be modules of its own."""
    returned, wanted = backbone.out_indices, tuple(sorted(indices))
    own = set(map(id, backbone.modules()))
    if wanted != returned and any(id(part) not in own for part in backbone.stage_parts()):
        raise ValueError(
            f'{type(backbone).__name__} cannot give maps of the stages {wanted}, as it was built '
            f'for {returned}: take features_only=True with out_indices={wanted}.'
        )
    backbone.out_indices = wanted
    try:
        yield
    finally:
        backbone.out_indices = returned


def _build_features(
    name: str,
    out_indices: Sequence[int],
    num_classes: int = 0,
    in_chans: int = 3,
    global_pool: str = '',
    drop_rate: float = 0.0,
    **options: Any,
) -> BackboneContract:
    """Build a backbone; it has no use for the arguments of a head."""
    build = functools.partial(models.build_features, name, in_channels=in_chans, **options)
    model = build(out_indices=out_indices)
    model.build_like = build
    model.num_classes = 0
    return model


def _default_cfg(name: str) -> dict[str, Any]:
    settings = models.data_settings(name)
    size = settings.pop('image_size')
    return dict(
        **settings,
        input_size=(3, size, size),
        pool_size=None,
        num_classes=1000,
        classifier='head.fc',
        first_conv=_FIRST_CONV[models.backbone_settings(name)['type']],
        license='apache-2.0',
    )


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f'{name} of mmdmformer.'
    return create


_NAMES = [n for n in models.list_models() if models.is_available(n) and not is_model(n)]
default_cfgs = generate_default_cfgs({name: _default_cfg(name) for name in _NAMES})
for _name in _NAMES:
    globals()[_name] = register_model(_entry_point(_name))
