# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The base architecture of DMFormer, with an exchangeable token mixer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn as nn
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS
from torch import Tensor

from ..layers import (
    Backbone,
    ConvFFN,
    LayerNorm2d,
    as_outputs,
    check_input_size,
    checkpoint_forward,
    parse_arch,
)
from ..layers.folding import FoldedBlock, fold_mixer, fold_sequence
from ..ops import to_preferred_format
from ..registry import TOKEN_MIXERS


def build_stem(in_channels: int, channels: int, norm_cfg: dict) -> nn.Sequential:
    """Build the stem, which reduces the resolution four times.

    Args:
        in_channels (int): Channels of the image.
        channels (int): Channels of the output.
        norm_cfg (dict): Config of the norm layers.

    Returns:
        nn.Sequential: From (B, in_channels, H, W) to (B, channels, H/4, W/4).
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 7, stride=2, padding=3),
        build_norm_layer(norm_cfg, channels)[1],
        build_activation_layer(dict(type='ReLU', inplace=True)),
        nn.Conv2d(channels, channels, 3, padding=1),
        build_norm_layer(norm_cfg, channels)[1],
        build_activation_layer(dict(type='ReLU', inplace=True)),
        nn.Conv2d(channels, channels, 2, stride=2),
        build_norm_layer(norm_cfg, channels)[1],
    )


def build_downsample(in_channels: int, channels: int, norm_cfg: dict) -> nn.Sequential:
    """Build the layer between two stages, which halves the resolution.

    Args:
        in_channels (int): Channels of the stage before.
        channels (int): Channels of the stage after.
        norm_cfg (dict): Config of the norm layer.

    Returns:
        nn.Sequential: From (B, in_channels, H, W) to (B, channels, H/2, W/2).
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, stride=2, padding=1),
        build_norm_layer(norm_cfg, channels)[1],
    )


class MetaFormerBlock(nn.Module):
    """Token mixer and FFN, each with its norm, layer scale and residual.

    Args:
        channels (int): Number of channels.
        mixer (dict): Config of the token mixer.
        ffn_ratio (int): Expansion ratio of the FFN.
        drop_path (float): Probability of dropping a residual branch.
        layer_scale_init_value (float): Initial value of the layer scales.
        norm_cfg (dict): Config of the norm layers.
        act_cfg (dict): Config of the FFN's activation.
        with_cp (bool): Whether to checkpoint activations.
    """

    def __init__(
        self,
        channels: int,
        *,
        mixer: dict,
        ffn_ratio: int,
        drop_path: float,
        layer_scale_init_value: float,
        norm_cfg: dict,
        act_cfg: dict,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.mixer = TOKEN_MIXERS.build(mixer, channels=channels, norm_cfg=norm_cfg)
        self.norm2 = build_norm_layer(norm_cfg, channels)[1]
        self.ffn = ConvFFN(channels, channels * ffn_ratio, act_cfg)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), layer_scale_init_value))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), layer_scale_init_value))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (B, C, H, W) to the same shape."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint_forward(self, self._forward, x)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        mixed = self.layer_scale_1[:, None, None] * self.mixer(self.norm1(x))
        x = x + self.drop_path(mixed)
        transformed = self.layer_scale_2[:, None, None] * self.ffn(self.norm2(x))
        return x + self.drop_path(transformed)

    def fold(self) -> FoldedBlock:
        """Give the block's form for inference; raises a ValueError if a norm cannot be folded."""
        mixer = fold_mixer(self.norm1, self.mixer, self.layer_scale_1)
        return FoldedBlock(mixer, self.norm2, self.ffn, self.layer_scale_2)


class MetaFormerStage(nn.Module):
    """Downsampling, blocks, and the norm whose output is the stage's output.

    Args:
        downsample (nn.Module): Layer before the blocks.
        blocks (Sequence[nn.Module]): The blocks.
        channels (int): Number of channels of the blocks.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], channels: int) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.norm = LayerNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map the output of the stage before to the output of this stage."""
        return self.norm(self.blocks(self.downsample(x)))


@MODELS.register_module()
class MetaFormer(Backbone):
    """Four convolutional stages, whose blocks mix tokens as the config says.

    Stem, downsampling, batch norms, layer scales, convolutional
    FFNs and the norm at the end of each stage are those of `DMFormer
    <https://arxiv.org/abs/2209.07738>`_; the slot for the token mixer is the
    idea of `MetaFormer Is Actually What You Need for Vision
    <https://arxiv.org/abs/2111.11418>`_, equation 3.

    Args:
        arch (dict): One number per stage in each of

            - **embed_dims** (Sequence[int]): channels,
            - **depths** (Sequence[int]): blocks,
            - **ffn_ratios** (Sequence[int]): expansion ratios of the FFNs.

        mixer (dict | Sequence[dict]): Config of the token mixer, of the
            registry :data:`~mmdmformer.TOKEN_MIXERS`: one for all stages, or
            one for each. The block gives it ``channels``, and ``norm_cfg`` if
            it has norms. Defaults to ``dict(type='DMA')``.
        in_channels (int): Channels of the image. Defaults to 3.
        drop_path_rate (float): Stochastic depth rate of the last block; it
            rises linearly from 0. Defaults to 0.
        layer_scale_init_value (float): Initial value of the layer scales.
            Defaults to 1e-2.
        norm_cfg (dict): Config of the norm layers, but for the layer norm at
            the end of each stage. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Config of the FFNs' activation; the
            stem's is ReLU. Defaults to ``dict(type='GELU')``.
        out_indices (int | Sequence[int]): Stages whose outputs are returned.
            Stages after the last one do not run. Defaults to -1, the last.
        frozen_stages (int): -1 freezes nothing, 0 the stem, k the stem and the
            first k stages. Defaults to -1.
        norm_eval (bool): Whether batch norm layers use, and do not update,
            their running statistics in training. Defaults to False.
        with_cp (bool): Whether to checkpoint activations, which saves memory
            in training and takes longer. Defaults to False.
        deploy (bool): Whether to build the network in the form that
            :meth:`switch_to_deploy` gives, for checkpoints of that form.
            Defaults to False.
        init_cfg (dict | list[dict], optional): Initialization config.
            ``type='Pretrained'`` refuses a checkpoint that does not fit.
            Defaults to None.

    Raises:
        ValueError: If an argument is out of range; the message says what is
            possible.
        KeyError: If there is no such mixer.

    Examples:
        >>> import torch
        >>> from mmdmformer import MetaFormer
        >>> arch = dict(embed_dims=(16, 32), depths=(1, 2), ffn_ratios=(4, 4))
        >>> mixers = [dict(type='DMA', gate=False), dict(type='DMA')]
        >>> model = MetaFormer(arch, mixers, out_indices=(0, 1)).eval()
        >>> [tuple(x.shape) for x in model(torch.rand(1, 3, 64, 96))]
        [(1, 16, 16, 24), (1, 32, 8, 12)]
    """

    arch_keys = ('embed_dims', 'depths', 'ffn_ratios')
    arch_zoo: dict[str, dict] = {}
    min_input_side = 32

    def __init__(
        self,
        arch: str | dict,
        mixer: dict | Sequence[dict] = dict(type='DMA'),
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-2,
        norm_cfg: dict = dict(type='BN'),
        act_cfg: dict = dict(type='GELU'),
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = parse_arch(arch, self.arch_zoo, self.arch_keys)
        self.embed_dims, self.depths = arch['embed_dims'], arch['depths']
        num_stages = len(self.depths)
        super().__init__(num_stages, out_indices, frozen_stages, norm_eval, init_cfg)
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate} must be at least 0 and below 1.')
        mixers = [mixer] * num_stages if isinstance(mixer, Mapping) else list(mixer)
        if len(mixers) != num_stages:
            raise ValueError(
                f'mixer={mixers} gives {len(mixers)} configs for {num_stages} stages: give one '
                'for all or one for each.'
            )
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(self.depths)).tolist())

        self.deploy = False
        self.stem = build_stem(in_channels, self.embed_dims[0], norm_cfg)
        self.stages: Any = nn.ModuleList()
        for i, (channels, depth) in enumerate(zip(self.embed_dims, self.depths, strict=True)):
            downsample: nn.Module = nn.Identity()
            if i > 0:
                downsample = build_downsample(self.embed_dims[i - 1], channels, norm_cfg)
            blocks = [
                MetaFormerBlock(
                    channels,
                    mixer=mixers[i],
                    ffn_ratio=arch['ffn_ratios'][i],
                    drop_path=next(drop_paths),
                    layer_scale_init_value=layer_scale_init_value,
                    norm_cfg=norm_cfg,
                    act_cfg=act_cfg,
                    with_cp=with_cp,
                )
                for _ in range(depth)
            ]
            self.stages.append(MetaFormerStage(downsample, blocks, channels))
        if deploy:
            self._fold()
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x (Tensor): Images of shape (B, in_channels, H, W), with H and W
                of at least 32 pixels.

        Returns:
            tuple[Tensor]: For each stage i of ``out_indices``, a feature map
            of stride 2 ** (i + 2) and ``embed_dims[i]`` channels.

        Raises:
            ValueError: If the images are too small.
        """
        if not torch.jit.is_tracing():
            check_input_size(x, self.min_input_side)
        images, outs = x, []
        x = self.stem(to_preferred_format(x))
        for i, stage in enumerate(self.stages[: self.out_indices[-1] + 1]):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return as_outputs(outs, images)

    def switch_to_deploy(self) -> None:
        """Fold batch norms and layer scales into their neighbors, for faster inference.

        A token mixer without a folded form stays with its norm and layer
        scale, as does the layer norm at the end of each stage. The outputs
        change by rounding alone; the parameters become those of the network
        with ``deploy=True``.

        Raises:
            RuntimeError: In training mode, where batch norms use the
                statistics of the batch.
            ValueError: If a norm is no batch norm with running statistics.
        """
        if self.training:
            raise RuntimeError(
                f'a {type(self).__name__} in training mode cannot be folded, as its batch norms '
                "use the statistics of the batch: call the model's eval() first."
            )
        if not self.deploy:
            self._fold()
            self.eval()

    def _fold(self) -> None:
        # Everything is folded before anything is replaced, in case that a norm cannot be.
        stem = fold_sequence(self.stem)
        downsamples = [fold_sequence(stage.downsample) for stage in self.stages]
        blocks = [[block.fold() for block in stage.blocks] for stage in self.stages]
        self.deploy, self.stem = True, stem
        for i, stage in enumerate(self.stages):
            stage.downsample, stage.blocks = downsamples[i], nn.Sequential(*blocks[i])

    def _blocks(self) -> list[nn.Module]:
        return [block for stage in self.stages for block in stage.blocks]

    def _parts(self) -> list[nn.Module]:
        return [self.stem, *self.stages]
