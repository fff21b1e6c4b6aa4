# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer, a convolutional backbone of the MetaFormer kind."""

from collections.abc import Sequence

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
    check_input_size,
    checkpoint_forward,
    parse_arch,
)
from ..layers.folding import as_affine, fold_after, fold_before, fold_sequence
from ..mixers import DMA, FoldedDMA
from ..ops import conv2d, fuses, map_slices, to_preferred_format


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


class DMFormerBlock(nn.Module):
    """Token mixer and feed-forward part, each with its norm, layer scale and residual.

    Args:
        channels (int): Number of channels.
        ffn_ratio (int): Expansion ratio of the feed-forward part.
        mixer_cfg (dict): Arguments of :class:`~mmdmformer.mixers.DMA`.
        drop_path (float): Probability of dropping a residual branch.
        layer_scale_init_value (float): Initial value of the layer scales.
        norm_cfg (dict): Config of the norm layers.
        act_cfg (dict): Config of the feed-forward part's activation.
        with_cp (bool): Whether to checkpoint activations.
    """

    def __init__(
        self,
        channels: int,
        ffn_ratio: int,
        mixer_cfg: dict,
        drop_path: float,
        layer_scale_init_value: float,
        norm_cfg: dict,
        act_cfg: dict,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.mixer = DMA(channels, norm_cfg=norm_cfg, **mixer_cfg)
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


class FoldedDMFormerBlock(nn.Module):
    """A block in inference, without norms and layer scales.

    Args:
        block (DMFormerBlock): The block as trained.

    Raises:
        ValueError: If a norm is no batch norm with running statistics.
    """

    def __init__(self, block: DMFormerBlock) -> None:
        super().__init__()
        self.mixer = FoldedDMA(block.norm1, block.mixer, block.layer_scale_1)
        first, *middle, last = block.ffn
        self.ffn = nn.Sequential(
            fold_before(*as_affine(block.norm2), first),
            *middle,
            fold_after(last, block.layer_scale_2),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (B, C, H, W) to the same shape."""
        if not fuses(x, *self.parameters()):
            return self._forward(x)
        widest = max(self.mixer.expand.out_channels, self.ffn[0].out_channels)
        return map_slices(self._forward, x, widest * x[0, 0].nbytes)

    def _forward(self, x: Tensor) -> Tensor:
        x = self.mixer(x)
        expand, depthwise, act, reduce = self.ffn
        y = conv2d(conv2d(x, expand), depthwise, act)
        return conv2d(y, reduce, add=x)


class DMFormerStage(nn.Module):
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
class DMFormer(Backbone):
    """DMFormer (called ConvFormer in the paper's first version).

    A PyTorch implementation of `DMFormer: Closing the Gap between CNN and
    Vision Transformers <https://arxiv.org/abs/2209.07738>`_ (ICASSP 2023). The
    paper's ablations are the arguments ``expand_ratio``,
    ``kernel_sizes``, ``dilations``, ``gate`` and ``residual``.

    Args:
        arch (str | dict): ``'small'`` (``'s'``), ``'large'`` (``'l'``),
            ``'nano'`` (ours, about 1 M parameters, for CPUs and tests), or a
            dict with one number per stage in each of

            - **embed_dims** (Sequence[int]): channels,
            - **depths** (Sequence[int]): blocks,
            - **ffn_ratios** (Sequence[int]): expansion ratios of the
              feed-forward parts.

            Defaults to 'small'.
        in_channels (int): Channels of the image. Defaults to 3.
        expand_ratio (int): Expansion ratio r of the token mixer. Defaults to 4.
        kernel_sizes (Sequence[int]): Odd kernel sizes of the token mixer's
            depth-wise branches. Defaults to (3, 5, 7).
        dilations (Sequence[int]): Their dilations. Defaults to (1, 2, 3).
        gate (bool): Whether the token mixer weighs its output by the gate.
            Defaults to True.
        residual (bool): Whether the token mixer adds its input.
            Defaults to True.
        out_norm_act (bool): Whether norm and activation follow the token
            mixer's last 1x1 convolution, which the paper leaves open.
            Defaults to True.
        drop_path_rate (float): Stochastic depth rate of the last block; it
            rises linearly from 0. Defaults to 0.
        layer_scale_init_value (float): Initial value of the layer scales.
            Defaults to 1e-2.
        norm_cfg (dict): Config of the norm layers, but for the layer norm at
            the end of each stage. Defaults to ``dict(type='BN')``.
        act_cfg (dict): Config of the feed-forward parts' activation; the token
            mixer's and the stem's are ReLU. Defaults to ``dict(type='GELU')``.
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
        init_cfg (dict | list[dict], optional): Initialisation config.
            ``type='Pretrained'`` refuses a checkpoint that does not fit; see
            :class:`~mmdmformer.engine.CheckedPretrainedInit`.
            Defaults to None.

    Raises:
        ValueError: If an argument is out of range; the message says what is
            possible.

    Examples:
        >>> import torch
        >>> from mmdmformer import DMFormer
        >>> model = DMFormer('nano', out_indices=(0, 1, 2, 3)).eval()
        >>> for feature in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(feature.shape))
        (1, 16, 16, 24)
        (1, 32, 8, 12)
        (1, 80, 4, 6)
        (1, 128, 2, 3)
    """

    arch_zoo = {
        **dict.fromkeys(
            ['s', 'small'],
            dict(embed_dims=(64, 128, 320, 512), depths=(2, 2, 6, 2), ffn_ratios=(8, 8, 4, 4)),
        ),
        **dict.fromkeys(
            ['l', 'large'],
            dict(embed_dims=(64, 128, 320, 512), depths=(3, 3, 12, 3), ffn_ratios=(8, 8, 4, 4)),
        ),
        'nano': dict(embed_dims=(16, 32, 80, 128), depths=(1, 1, 2, 1), ffn_ratios=(8, 8, 4, 4)),
    }
    min_input_side = 32

    def __init__(
        self,
        arch: str | dict = 'small',
        in_channels: int = 3,
        expand_ratio: int = 4,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        dilations: Sequence[int] = (1, 2, 3),
        gate: bool = True,
        residual: bool = True,
        out_norm_act: bool = True,
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
        arch = parse_arch(arch, self.arch_zoo)
        self.embed_dims, self.depths = arch['embed_dims'], arch['depths']
        super().__init__(len(self.depths), out_indices, frozen_stages, norm_eval, init_cfg)
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate} must be at least 0 and below 1.')
        mixer_cfg = dict(
            expand_ratio=expand_ratio,
            kernel_sizes=kernel_sizes,
            dilations=dilations,
            gate=gate,
            residual=residual,
            out_norm_act=out_norm_act,
        )
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(self.depths)).tolist())

        self.deploy = False
        self.stem = build_stem(in_channels, self.embed_dims[0], norm_cfg)
        self.stages = nn.ModuleList()
        for i, (channels, depth) in enumerate(zip(self.embed_dims, self.depths, strict=True)):
            downsample = (
                build_downsample(self.embed_dims[i - 1], channels, norm_cfg)
                if i > 0
                else nn.Identity()
            )
            blocks = [
                DMFormerBlock(
                    channels,
                    arch['ffn_ratios'][i],
                    mixer_cfg,
                    next(drop_paths),
                    layer_scale_init_value,
                    norm_cfg,
                    act_cfg,
                    with_cp,
                )
                for _ in range(depth)
            ]
            self.stages.append(DMFormerStage(downsample, blocks, channels))
        if deploy:
            self._fold()
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x (Tensor): Images of shape (B, in_channels, H, W), with sides of
                at least 32 pixels.

        Returns:
            tuple[Tensor]: For each stage i of ``out_indices``, a feature map
            of stride 2 ** (i + 2) and ``embed_dims[i]`` channels.

        Raises:
            ValueError: If the images are too small.
        """
        if not torch.jit.is_tracing():
            check_input_size(x, self.min_input_side)
        outs = []
        x = self.stem(to_preferred_format(x))
        for i, stage in enumerate(self.stages[: self.out_indices[-1] + 1]):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def switch_to_deploy(self) -> None:
        """Fold all batch norms and layer scales into their neighbours, for faster inference.

        The layer norm at the end of each stage stays. The outputs change by
        rounding alone; the parameters become those of
        ``DMFormer(..., deploy=True)``.

        Raises:
            RuntimeError: In training mode, where batch norms use the
                statistics of the batch.
            ValueError: If a norm is no batch norm with running statistics.
        """
        if self.training:
            raise RuntimeError(
                'a DMFormer in training mode cannot be folded, as its batch norms use the '
                "statistics of the batch: call the model's eval() first."
            )
        if not self.deploy:
            self._fold()
            self.eval()

    def _fold(self) -> None:
        # Everything is folded before anything is replaced, in case that a norm cannot be.
        stem = fold_sequence(self.stem)
        downsamples = [fold_sequence(stage.downsample) for stage in self.stages]
        blocks = [[FoldedDMFormerBlock(b) for b in stage.blocks] for stage in self.stages]
        self.deploy, self.stem = True, stem
        for i, stage in enumerate(self.stages):
            stage.downsample, stage.blocks = downsamples[i], nn.Sequential(*blocks[i])

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Get the depth of a parameter for layer-wise learning-rate decay.

        The stem has depth 0 and every block one of its own; the downsampling
        before a stage counts to the stage's first block, the norm after it to
        its last, and what does not belong to the backbone comes last.

        Args:
            param_name (str): Name of the parameter.
            prefix (str): Prefix of the backbone's parameters.
                Defaults to ''.

        Returns:
            tuple[int, int]: The depth, and the number of depths.

        Examples:
            >>> DMFormer('nano').get_layer_depth('backbone.stages.1.norm.weight', 'backbone.')
            (2, 7)
        """
        num_layers = sum(self.depths) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        part, *rest = param_name.removeprefix(prefix).split('.')
        if part == 'stem':
            return 0, num_layers
        stage = int(rest[0])
        block_in_stage = {
            'downsample': lambda: 0,
            'blocks': lambda: int(rest[2]),
            'norm': lambda: self.depths[stage] - 1,
        }[rest[1]]()
        return sum(self.depths[:stage]) + block_in_stage + 1, num_layers

    def _parts(self) -> list[nn.Module]:
        return [self.stem, *self.stages]
