# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Base class of all backbones."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import torch.nn as nn
from mmengine.model import BaseModule
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..ops import memory_format_of
from ..registry import type_name


class BackboneContract(BaseModule):
    """Outputs, freezing, norm layers in eval mode and initial weights, for any network.

    A mixin for subclasses of a toolbox's network, which stand after it in the
    list of bases; what else the toolbox does about these matters is replaced.
    A subclass builds its network, sets ``stage_channels`` (channels of each
    stage), and then calls :meth:`_set_contract`. It implements
    :meth:`_parts`, :meth:`_blocks` and :meth:`forward`.
    """

    def _set_contract(
        self,
        num_stages: int,
        out_indices: int | Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        """Check and set what :class:`Backbone` documents, and freeze parts."""
        self._set_arguments(num_stages, out_indices, frozen_stages, norm_eval)
        self.init_cfg = _with_checked_pretrained(init_cfg)
        self._freeze()

    def _set_arguments(
        self,
        num_stages: int,
        out_indices: int | Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
    ) -> None:
        self.out_indices = normalize_out_indices(out_indices, num_stages)
        if not -1 <= frozen_stages <= num_stages:
            raise ValueError(
                f'frozen_stages={frozen_stages} is out of range: choose -1 (nothing), 0 (the stem) '
                f'or the number of stages to freeze with it, at most {num_stages}.'
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each output."""
        return tuple(self.stage_channels[i] for i in self.out_indices)

    def _parts(self) -> list[nn.Module]:
        """The stem, then the stages, in order of execution."""
        raise NotImplementedError

    def _blocks(self) -> list[nn.Module]:
        """All blocks, in order of execution."""
        raise NotImplementedError

    def stage_parts(self) -> list[nn.Module]:
        """The stages, in order of execution: modules of the network, or lists of some."""
        return self._parts()[1:]

    def _depth_parts(self) -> list[nn.Module]:
        """What comes before any block, then what holds blocks, in order of execution."""
        return self._parts()

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Get the depth of a parameter for layer-wise learning-rate decay.

        The stem has depth 0 and every block one of its own. What comes before
        a stage's blocks counts to the first of them, what comes after to the
        last one, and what does not belong to the backbone comes last.

        Args:
            param_name (str): Name of the parameter.
            prefix (str): Prefix of the backbone's parameters.
                Defaults to ''.

        Returns:
            tuple[int, int]: The depth, and the number of depths.

        Raises:
            AttributeError: If the backbone has no such parameter.

        Examples:
            >>> from mmdmformer import DMFormer
            >>> DMFormer('nano').get_layer_depth('backbone.stages.1.norm.weight', 'backbone.')
            (2, 7)
        """
        num_blocks = len(self._blocks())
        depth = num_blocks + 1
        if param_name.startswith(prefix):
            parameter = self.get_parameter(param_name.removeprefix(prefix))
            depth = self._layer_depths().get(id(parameter), num_blocks)
        return depth, num_blocks + 2

    def _layer_depths(self) -> dict[int, int]:
        """The depth of each parameter, by its identity; what follows the last block is left out."""
        of_blocks = {
            id(p): i for i, block in enumerate(self._blocks(), 1) for p in block.parameters()
        }
        stem, *stages = self._depth_parts()
        depths = {id(p): 0 for p in stem.parameters()}
        for stage in stages:
            ids = [id(p) for p in stage.parameters()]
            depth = min(of_blocks[i] for i in ids if i in of_blocks)
            for i in ids:
                depths[i] = depth = of_blocks.get(i, depth)
        return depths

    def _frozen_parts(self) -> list[nn.Module]:
        return self._parts()[: self.frozen_stages + 1]

    def _freeze(self) -> None:
        # Stages after the last output do not run; without gradients they are no unused parameters
        # to DistributedDataParallel.
        idle_parts = self._parts()[self.out_indices[-1] + 2 :]
        for part in self._frozen_parts() + idle_parts:
            part.requires_grad_(False)

    def _freeze_stages(self) -> None:
        """Do nothing: the toolboxes' networks call it, and number stages differently."""

    def train(self, mode: bool = True) -> 'BackboneContract':
        """Set training mode, but for frozen parts and, with ``norm_eval``, batch norm layers."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Initialize the weights: first the defaults, then what ``init_cfg`` says."""
        if not self.is_init:
            self._init_layers()
        BaseModule.init_weights(self)

    def _init_layers(self) -> None:
        self.apply(_init_layer)


class Backbone(BackboneContract):
    """Base of the backbones: outputs, freezing, norm layers in eval mode, initial weights.

    A subclass builds its network, sets ``embed_dims`` (channels of each
    stage) and calls :meth:`_freeze` at the end of its ``__init__``. It
    implements :meth:`_parts`, :meth:`_blocks` and :meth:`forward`.

    Args:
        num_stages (int): Number of stages.
        out_indices (int | Sequence[int]): Stages whose outputs are returned;
            negative ones count from the end.
        frozen_stages (int): -1 freezes nothing, 0 the stem, k the stem and the
            first k stages.
        norm_eval (bool): Whether batch norm layers use, and do not update,
            their running statistics in training.
        init_cfg (dict | list[dict], optional): Initialization config.
            ``type='Pretrained'`` is treated as ``type='CheckedPretrained'``,
            which refuses a checkpoint that does not fit.

    Raises:
        ValueError: If ``out_indices`` or ``frozen_stages`` name a stage that
            is not there.
    """

    embed_dims: Sequence[int]

    def __init__(
        self,
        num_stages: int,
        out_indices: int | Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(init_cfg=_with_checked_pretrained(init_cfg))
        self._set_arguments(num_stages, out_indices, frozen_stages, norm_eval)

    @property
    def stage_channels(self) -> Sequence[int]:
        """Channels of each stage."""
        return self.embed_dims


def _init_layer(module: nn.Module) -> None:
    """Normal weights scaled by the fan-out in convolutions, 0.02 in linear layers (as VAN)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def check_input_size(x: Tensor, min_side: int) -> None:
    """Raise a ValueError if an image is smaller than the network's largest stride.

    Args:
        x (Tensor): Images of shape (B, C, H, W).
        min_side (int): Smallest height and width, in pixels.
    """
    height, width = x.shape[-2:]
    if min(height, width) < min_side:
        raise ValueError(
            f'an input of {height}x{width} pixels is too small: each side must have at least '
            f'{min_side}, so enlarge or pad the images.'
        )


def as_outputs(outs: Iterable[Tensor], images: Tensor) -> tuple[Tensor, ...]:
    """Lay a backbone's outputs out as torch's own layers would: in memory as the images are.

    Args:
        outs (Iterable[Tensor]): Feature maps of shape (B, C, H, W), or vectors.
        images (Tensor): Images of shape (B, C, H, W).

    Returns:
        tuple[Tensor, ...]: The same values, each contiguous in the images' memory format.
    """
    memory_format = memory_format_of(images)
    return tuple(
        out.contiguous(memory_format=memory_format) if out.dim() == 4 else out.contiguous()
        for out in outs
    )


def normalize_out_indices(out_indices: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Check ``out_indices`` and count them from the first stage.

    Args:
        out_indices (int | Sequence[int]): Stages; negative ones count from the
            end.
        num_stages (int): Number of stages.

    Returns:
        tuple[int, ...]: The stages, rising.

    Raises:
        ValueError: If there is none, one is no integer or out of range, or they do not rise.

    Examples:
        >>> normalize_out_indices((-2, -1), 4)
        (2, 3)
    """
    given: Sequence[Any] = [out_indices]
    if isinstance(out_indices, Sequence) and not isinstance(out_indices, str):
        given = out_indices
    choice = f'choose one or more of 0 to {num_stages - 1}, or of -{num_stages} to -1.'
    if any(isinstance(i, bool) or not isinstance(i, Integral) for i in given):
        raise ValueError(
            f'out_indices={out_indices!r} must be an integer or a list of integers: {choice}'
        )
    normalized = [i + num_stages if i < 0 else i for i in given]
    if not normalized or any(not 0 <= i < num_stages for i in normalized):
        raise ValueError(f'out_indices={out_indices} is out of range: {choice}')
    if normalized != sorted(set(normalized)):
        raise ValueError(f'out_indices={out_indices} must rise from stage to stage.')
    return tuple(normalized)


def _with_checked_pretrained(init_cfg: dict | list[dict] | None) -> list[dict] | None:
    if init_cfg is None:
        return None
    init_cfgs: Iterable[dict] = [init_cfg] if isinstance(init_cfg, dict) else init_cfg
    checked = [
        {**cfg, 'type': 'CheckedPretrained'}
        if type_name(cfg['type']) in ('Pretrained', 'PretrainedInit')
        else cfg
        for cfg in init_cfgs
    ]
    # A later initializer must not overwrite what the checkpoint gave.
    return sorted(checked, key=lambda cfg: 'CheckedPretrained' in type_name(cfg['type']))
