# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Finding the backbones of a model by their type, wherever they are in it."""

from mmengine.model import BaseModel
from torch import nn

from ..registry import type_name


def find_backbones(model: nn.Module, method: str | None = None) -> dict[str, nn.Module]:
    """Find the backbones of a model, of its encoders, and of its students and teachers.

    Args:
        model (nn.Module): Model of any toolbox.
        method (str, optional): What a backbone must be able to do, such as
            ``'switch_to_deploy'``. None takes those that know the depths of their layers, as all
            of this package and of mmpretrain do, and those that are called backbone.

    Returns:
        dict[str, nn.Module]: The outermost ones by their names in the model; those that are
        trained come first.

    Examples:
        >>> from mmdmformer import DMFormer
        >>> list(find_backbones(nn.ModuleDict(dict(image_encoder=DMFormer('nano')))))
        ['image_encoder']
    """
    found: dict[str, nn.Module] = {}
    inside: set[int] = set()
    for name, module in model.named_modules():
        is_one = hasattr(module, method or 'get_layer_depth') or (
            method is None and name.rpartition('.')[2] == 'backbone'
        )
        # A toolbox's whole models pass such calls on to their backbones.
        if is_one and id(module) not in inside and not isinstance(module, BaseModel):
            found[name] = module
            inside.update(id(part) for part in module.modules())
    return dict(sorted(found.items(), key=lambda item: not _is_trained(item[1])))


def deploy_options(model: nn.Module, cfg: dict | list | tuple, place: str = 'model') -> list[str]:
    """The settings with which a model's config reads its folded checkpoint.

    Args:
        model (nn.Module): The model.
        cfg (dict | list | tuple): Its config, or a part of it.
        place (str): Where that is. Defaults to 'model'.

    Returns:
        list[str]: Such as ``'model.backbone.deploy=True'``, as ``--cfg-options`` takes them.

    Examples:
        >>> from mmdmformer import DMFormer
        >>> cfg = dict(image_encoder=[dict(type='DMFormer', arch='nano')])
        >>> deploy_options(DMFormer('nano'), cfg)
        ['model.image_encoder.0.deploy=True']
    """
    kinds = {type(part).__name__ for part in find_backbones(model, 'switch_to_deploy').values()}
    if isinstance(cfg, dict) and type_name(cfg.get('type', '')) in kinds:
        return [f'{place}.deploy=True']
    children = cfg.items() if isinstance(cfg, dict) else enumerate(cfg)
    return [
        option
        for key, child in children
        if isinstance(child, (dict, list, tuple))
        for option in deploy_options(model, child, f'{place}.{key}')
    ]


def input_channels(network: nn.Module) -> int:
    """The channels of the images that a network takes: those of its first convolution.

    Args:
        network (nn.Module): A backbone, or a model that begins with one.

    Returns:
        int: The number; 3 if it has none.

    Examples:
        >>> from mmdmformer import DMFormer
        >>> input_channels(DMFormer('nano', in_channels=4))
        4
    """
    return next((m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)), 3)


def predicting_model(model: BaseModel) -> BaseModel:
    """The part of a model that answers in a test: of a student and a teacher one of both.

    Args:
        model (BaseModel): Model of any toolbox.

    Returns:
        BaseModel: The branch that ``semi_test_cfg`` names in mmdet's semi-supervised detectors;
        else the model itself.
    """
    settings = getattr(model, 'semi_test_cfg', None)
    return model if settings is None else getattr(model, settings.get('predict_on', 'teacher'))


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
