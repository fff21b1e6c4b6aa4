# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Layer-wise learning rate decay for every backbone with ``get_layer_depth``."""

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..checkpoints import find_backbones


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Use smaller learning rates for the early layers of a pretrained backbone.

    A parameter of depth d of n (:meth:`DMFormer.get_layer_depth`) learns with
    ``lr * layer_decay_rate ** (n - d - 1)``. Necks and heads have the last
    depth, and so the full rate. It needs mmengine alone, and so serves
    configs of every toolbox; the toolboxes' own constructors know the names
    of their own backbones only.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper; its
            ``optimizer`` has an ``lr``.
        paramwise_cfg (dict): ``layer_decay_rate`` (float), above 0 and at
            most 1, and any option of mmengine's constructor
            (``norm_decay_mult``, ``custom_keys``, ...), which keeps its
            effect.

    Raises:
        ValueError: If ``layer_decay_rate`` is missing or out of range, or the
            optimizer has no ``lr``.

    Examples:
        >>> optim_wrapper = dict(
        ...     constructor='LayerDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.9))
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        rate = self.paramwise_cfg.get('layer_decay_rate')
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(
                f'paramwise_cfg.layer_decay_rate={rate} of the optim_wrapper must be a number '
                'above 0 and at most 1.'
            )
        if self.base_lr is None:
            raise ValueError(
                f'optim_wrapper.optimizer={optim_wrapper_cfg["optimizer"]} has no lr, which '
                'layer_decay_rate makes smaller: set it.'
            )
        self.layer_decay_rate = rate

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs) -> None:
        """Add a model's parameters as mmengine does, and scale their learning rates.

        Args:
            params (list[dict]): Parameter groups, extended in place.
            module (nn.Module): The model; its backbones, wherever they are
                in it, have ``get_layer_depth``.
            prefix (str): Name of the part; '' for the model.
                Defaults to ''.
            kwargs: Further arguments of mmengine's method.

        Raises:
            TypeError: If the backbone cannot tell the depth of a parameter.
        """
        super().add_params(params, module, prefix, **kwargs)
        if not prefix:
            self._scale_learning_rates(params, module)

    def _scale_learning_rates(self, params: list[dict], model: nn.Module) -> None:
        backbones = find_backbones(model, 'get_layer_depth')
        if not backbones:
            found = ', '.join(type(part).__name__ for part in find_backbones(model).values())
            raise TypeError(
                f'the backbone of {type(model).__name__} is a {found or None}, which '
                'has no get_layer_depth: layer-wise learning-rate decay needs it, so take one of '
                "mmdmformer's backbones or remove the optim_wrapper's constructor."
            )
        names = {parameter: name for name, parameter in model.named_parameters()}
        for group in params:
            (parameter,) = group['params']
            steps = _steps_below_the_last(names[parameter], backbones)
            group.setdefault('lr', self.base_lr)
            group['lr'] *= self.layer_decay_rate**steps
        rates = [group['lr'] for group in params]
        print_log(
            f'Learning rates rise with depth from {min(rates):.3g} to {max(rates):.3g} '
            f'(layer_decay_rate={self.layer_decay_rate}).',
            logger='current',
        )


def _steps_below_the_last(name: str, backbones: dict) -> int:
    for place, backbone in backbones.items():
        prefix = f'{place}.' if place else ''
        if name.startswith(prefix):
            depth, num_layers = backbone.get_layer_depth(name, prefix)
            return num_layers - depth - 1
    return 0  # of a neck or a head
