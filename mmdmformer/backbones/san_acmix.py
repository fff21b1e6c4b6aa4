# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""SAN, the self-attention network with patch-wise attention, and SAN with ACmix."""

from collections.abc import Sequence

import torch
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS
from torch import Tensor

from ..layers import Backbone, as_outputs, check_input_size, checkpoint_forward, parse_arch
from ..mixers.acmix import ACmixOperator, ConvolutionPath
from ..mixers.acmix_attention import PatchwiseAttention, QKVProjection

# Channels of a block per channel of its queries and keys, and of its values.
RELATION_REDUCTION, VALUE_REDUCTION = 16, 4


class PatchwiseMixer(nn.Module):
    """Patch-wise attention alone: SAN's own operator.

    Args:
        projection (nn.Module): See :class:`~mmdmformer.mixers.ACmixOperator`.
        attention (nn.Module): See :class:`~mmdmformer.mixers.ACmixOperator`.
    """

    def __init__(self, projection: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.projection, self.attention = projection, attention

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C / 4, H, W)."""
        return self.attention(*self.projection(x)[0])


class SANBlock(nn.Module):
    """Norm, activation, mixer, norm, activation and a 1x1 convolution, with a residual.

    Args:
        channels (int): Number of channels, C.
        mixer (nn.Module): From (B, C, H, W) to (B, C / 4, H, W).
        drop_path (float): Probability of dropping the residual branch.
        norm_cfg (dict): Config of the norm layers.
        with_cp (bool): Whether to checkpoint activations.
    """

    def __init__(
        self, channels: int, mixer: nn.Module, drop_path: float, norm_cfg: dict, with_cp: bool
    ) -> None:
        super().__init__()
        width = channels // VALUE_REDUCTION
        self.with_cp = with_cp
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.mixer = mixer
        self.norm2 = build_norm_layer(norm_cfg, width)[1]
        self.expand = nn.Conv2d(width, channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (B, C, H, W) to the same shape."""
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint_forward(self, self._forward, x)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        mixed = self.mixer(self.relu(self.norm1(x)))
        return x + self.drop_path(self.expand(self.relu(self.norm2(mixed))))


class SANStage(nn.Module):
    """Max-pooling, a 1x1 convolution, blocks, a norm and an activation.

    Args:
        in_channels (int): Channels of the stage before.
        channels (int): Channels of this stage.
        blocks (Sequence[nn.Module]): The blocks.
        norm_cfg (dict): Config of the norm layer.
    """

    def __init__(
        self, in_channels: int, channels: int, blocks: Sequence[nn.Module], norm_cfg: dict
    ) -> None:
        super().__init__()
        self.downsample = nn.Sequential(
            nn.MaxPool2d(2), nn.Conv2d(in_channels, channels, 1, bias=False)
        )
        self.blocks = nn.Sequential(*blocks)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, channels, H/2, W/2)."""
        return self.relu(self.norm(self.blocks(self.downsample(x))))


@MODELS.register_module()
class SAN(Backbone):
    """Self-attention network with patch-wise attention.

    A PyTorch implementation of `Exploring Self-attention for Image Recognition
    <https://arxiv.org/abs/2004.13621>`_ (CVPR 2020).

    Its first group of blocks, of stride 2, counts to the stem here, so that
    the four stages have the strides that detectors and segmentors expect.

    Args:
        arch (str | int | dict): ``'10'``, ``'15'``, ``'19'``, ``'nano'``
            (ours, for CPUs and tests), or a dict with one number per group in
            each of

            - **embed_dims** (Sequence[int]): channels, multiples of 32,
            - **depths** (Sequence[int]): blocks,
            - **kernel_sizes** (Sequence[int]): odd sides of the windows.

            Defaults to '19'.
        in_channels (int): Channels of the image. Defaults to 3.
        drop_path_rate (float): Stochastic depth rate of the last block; it
            rises linearly from 0. Defaults to 0.
        norm_cfg (dict): Config of the norm layers. Defaults to
            ``dict(type='BN')``.
        out_indices (int | Sequence[int]): Stages whose outputs are returned.
            Stages after the last one do not run. Defaults to -1, the last.
        frozen_stages (int): -1 freezes nothing, 0 the stem, k the stem and the
            first k stages. Defaults to -1.
        norm_eval (bool): Whether batch norm layers use, and do not update,
            their running statistics in training. Defaults to False.
        with_cp (bool): Whether to checkpoint activations, which saves memory
            in training and takes longer. Defaults to False.
        init_cfg (dict | list[dict], optional): Initialization config.
            ``type='Pretrained'`` refuses a checkpoint that does not fit; see
            :class:`~mmdmformer.engine.CheckedPretrainedInit`.
            Defaults to None.

    Raises:
        ValueError: If an argument is out of range; the message says what is
            possible.

    Examples:
        >>> model = SAN('nano', out_indices=(0, 1, 2, 3)).eval()
        >>> for feature in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(feature.shape))
        (1, 32, 16, 24)
        (1, 64, 8, 12)
        (1, 128, 4, 6)
        (1, 256, 2, 3)
    """

    arch_zoo = {
        **{
            name: dict(
                embed_dims=(64, 256, 512, 1024, 2048),
                depths=depths,
                kernel_sizes=(3, 7, 7, 7, 7),
            )
            for name, depths in {
                '10': (2, 1, 2, 4, 1),
                '15': (3, 2, 3, 5, 2),
                '19': (3, 3, 4, 6, 3),
            }.items()
        },
        'nano': dict(
            embed_dims=(32, 32, 64, 128, 256), depths=(2, 1, 2, 2, 1), kernel_sizes=(3, 7, 7, 7, 7)
        ),
    }
    min_input_side = 32

    def __init__(
        self,
        arch: str | int | dict = '19',
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        norm_cfg: dict = dict(type='BN'),
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = parse_arch(arch, self.arch_zoo)
        dims, self.depths = tuple(arch['embed_dims']), arch['depths']
        self.embed_dims = dims[1:]
        super().__init__(len(self.embed_dims), out_indices, frozen_stages, norm_eval, init_cfg)
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(self.depths)).tolist())

        groups = [
            SANStage(
                inputs,
                channels,
                [
                    SANBlock(
                        channels,
                        self._build_mixer(channels, kernel_size, norm_cfg),
                        next(drop_paths),
                        norm_cfg,
                        with_cp,
                    )
                    for _ in range(depth)
                ],
                norm_cfg,
            )
            for inputs, channels, depth, kernel_size in zip(
                (dims[0], *dims), dims, self.depths, arch['kernel_sizes'], strict=False
            )
        ]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, dims[0], 1, bias=False),
            build_norm_layer(norm_cfg, dims[0])[1],
            nn.ReLU(inplace=True),
            groups[0],
        )
        self.stages = nn.ModuleList(groups[1:])
        self._freeze()

    def _build_mixer(self, channels: int, kernel_size: int, norm_cfg: dict) -> nn.Module:
        return PatchwiseMixer(*self._attention_parts(channels, kernel_size, norm_cfg))

    @staticmethod
    def _attention_parts(
        channels: int, kernel_size: int, norm_cfg: dict
    ) -> tuple[nn.Module, nn.Module]:
        relations, values = channels // RELATION_REDUCTION, channels // VALUE_REDUCTION
        return (
            QKVProjection(channels, (relations, relations, values)),
            PatchwiseAttention(relations, values, kernel_size, norm_cfg=norm_cfg),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x (Tensor): Images of shape (B, in_channels, H, W), with H and W
                of at least 32 pixels.

        Returns:
            tuple[Tensor]: For each stage i of ``out_indices``, a feature map
            of stride 2 ** (i + 2).

        Raises:
            ValueError: If the images are too small.
        """
        if not torch.jit.is_tracing():
            check_input_size(x, self.min_input_side)
        images = x
        outs = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages[: self.out_indices[-1] + 1]):
            x = stage(x)
            if i in self.out_indices:
                outs.append(x)
        return as_outputs(outs, images)

    def _blocks(self) -> list[nn.Module]:
        return [block for stage in (self.stem[3], *self.stages) for block in stage.blocks]

    def _parts(self) -> list[nn.Module]:
        return [self.stem, *self.stages]

    def _depth_parts(self) -> list[nn.Module]:
        return [self.stem[:3], self.stem[3], *self.stages]

    def _init_layers(self) -> None:
        """Keep torch's defaults: scaled by the fan-out, layers that reduce channels explode."""


@MODELS.register_module()
class SANACmix(SAN):
    """SAN whose operator is ACmix: patch-wise attention and convolution on shared projections.

    From `On the Integration of Self-Attention and Convolution
    <https://arxiv.org/abs/2111.14556>`_ (CVPR 2022), appendix C: the values
    count as four maps, beside one of queries and one of keys. There is no
    encoding of positions (appendix D). No code of it was released.

    Args:
        arch (str | int | dict): See :class:`SAN`. Defaults to '19'.
        conv_kernel (int): Odd kernel size of the convolution path.
            Defaults to 3.
        rates (str): How the paths are weighed (table 6); see
            :class:`~mmdmformer.mixers.PathRates`. Defaults to 'learned'.
        shift (str): How the convolution path shifts maps (table 7); see
            :class:`~mmdmformer.mixers.ConvolutionPath`. Defaults to 'learned'.
        align_heads (bool): Whether the convolution path's output has the order
            of the attention path's; see
            :class:`~mmdmformer.mixers.ConvolutionPath`. Defaults to False.
        kwargs: Further arguments of :class:`SAN`.

    Raises:
        ValueError: If an argument is out of range; the message says what is
            possible.

    Examples:
        >>> SANACmix('nano').eval()(torch.rand(1, 3, 64, 96))[0].shape
        torch.Size([1, 256, 2, 3])
    """

    def __init__(
        self,
        arch: str | int | dict = '19',
        conv_kernel: int = 3,
        rates: str = 'learned',
        shift: str = 'learned',
        align_heads: bool = False,
        **kwargs,
    ) -> None:
        self.rates = rates
        self.path_cfg: dict = dict(kernel_size=conv_kernel, shift=shift, align_heads=align_heads)
        super().__init__(arch, **kwargs)

    def _build_mixer(self, channels: int, kernel_size: int, norm_cfg: dict) -> nn.Module:
        relations, values = channels // RELATION_REDUCTION, channels // VALUE_REDUCTION
        return ACmixOperator(
            *self._attention_parts(channels, kernel_size, norm_cfg),
            ConvolutionPath(2 + values // relations, relations, values, **self.path_cfg),
            self.rates,
        )
