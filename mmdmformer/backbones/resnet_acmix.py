# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""ResNet whose 3x3 convolutions are ACmix, and the plain ResNet of the same depths."""

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from mmpretrain.models.backbones.resnet import Bottleneck, ResLayer, ResNet
from torch import Tensor, nn

from ..layers import (
    BackboneContract,
    as_outputs,
    check_input_size,
    checkpoint_forward,
    normalize_out_indices,
    parse_arch,
)
from ..mixers.acmix import ACmixOperator, ConvolutionPath
from ..mixers.acmix_attention import QKVProjection, WindowAttention
from ..mixers.arguments import check_heads


class CheckpointedBottleneck(Bottleneck):
    """mmpretrain's bottleneck, with checkpointing that leaves running statistics right.

    Args:
        args: Arguments of mmpretrain's bottleneck.
        with_cp (bool): Whether to checkpoint activations. Defaults to False.
        kwargs: Arguments of mmpretrain's bottleneck.
    """

    def __init__(self, *args, with_cp: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.checkpointed = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (B, C, H, W) to (B, C', H / stride, W / stride)."""
        if self.checkpointed and torch.is_grad_enabled():
            return checkpoint_forward(self, super().forward, x)
        return super().forward(x)


class ACmixBottleneck(CheckpointedBottleneck):
    """A bottleneck with ACmix in place of the 3x3 convolution.

    Args:
        args: Arguments of :class:`CheckpointedBottleneck`.
        num_heads (int): Number of heads.
        window_size (int): Side of the attention's window.
        rates (str): See :class:`~mmdmformer.mixers.PathRates`.
        path_cfg (dict): Further arguments of
            :class:`~mmdmformer.mixers.ConvolutionPath`.
        kwargs: Arguments of :class:`CheckpointedBottleneck`.
    """

    def __init__(
        self, *args, num_heads: int, window_size: int, rates: str, path_cfg: dict, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        width, stride = self.mid_channels, self.conv2_stride
        check_heads(width, num_heads)
        self.conv2 = ACmixOperator(
            QKVProjection(width, (width,) * 3),
            WindowAttention(width, num_heads, window_size, stride),
            ConvolutionPath(3 * num_heads, width // num_heads, width, stride=stride, **path_cfg),
            rates,
        )


@MODELS.register_module(force=True)
class BottleneckResNet(BackboneContract, ResNet):
    """ResNet of 26, 38 or 50 layers, all of bottlenecks: the baselines of ResNetACmix.

    On top of mmpretrain's ResNet (with the stride in the 3x3 convolution).

    Args:
        arch (str | int | dict): ``'26'``, ``'38'``, ``'50'``, ``'nano'``
            (ours, for CPUs and tests), or a dict of

            - **base_channels** (int): channels inside the bottlenecks of the
              first stage, which double from stage to stage,
            - **depths** (Sequence[int]): bottlenecks of each stage.

            Defaults to '50'.
        in_channels (int): Channels of the image. Defaults to 3.
        strides (Sequence[int]): Stride of each stage.
            Defaults to (1, 2, 2, 2).
        dilations (Sequence[int]): Dilation of each stage.
            Defaults to (1, 1, 1, 1).
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
        >>> model = BottleneckResNet('nano', out_indices=(0, 1, 2, 3)).eval()
        >>> for feature in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(feature.shape))
        (1, 64, 16, 24)
        (1, 128, 8, 12)
        (1, 256, 4, 6)
        (1, 512, 2, 3)
    """

    arch_zoo = {
        '26': dict(base_channels=64, depths=(1, 2, 4, 1)),
        '38': dict(base_channels=64, depths=(2, 3, 5, 2)),
        '50': dict(base_channels=64, depths=(3, 4, 6, 3)),
        'nano': dict(base_channels=16, depths=(1, 1, 1, 1)),
    }
    min_input_side = 32
    block: type[CheckpointedBottleneck] = CheckpointedBottleneck
    block_cfg: dict = {}

    def __init__(
        self,
        arch: str | int | dict = '50',
        in_channels: int = 3,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        drop_path_rate: float = 0.0,
        norm_cfg: dict = dict(type='BN'),
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = parse_arch(arch, self.arch_zoo)
        num_stages, base = len(arch['depths']), arch['base_channels']
        self.arch_settings = {arch['depths']: (self.block, arch['depths'])}  # mmpretrain's table
        super().__init__(
            arch['depths'],
            in_channels,
            stem_channels=base,
            base_channels=base,
            expansion=4,
            num_stages=num_stages,
            strides=strides,
            dilations=dilations,
            out_indices=normalize_out_indices(out_indices, num_stages),
            norm_cfg=norm_cfg,
            with_cp=with_cp,
            zero_init_residual=False,
            drop_path_rate=drop_path_rate,
        )
        self.stage_channels = tuple(4 * base * 2**i for i in range(num_stages))
        self._set_contract(num_stages, out_indices, frozen_stages, norm_eval, init_cfg)

    def make_res_layer(self, **kwargs) -> ResLayer:
        """Make a stage; mmpretrain calls it."""
        return ResLayer(**kwargs, **self.block_cfg)

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
        x = self.maxpool(self.relu(self.norm1(self.conv1(x))))
        outs = []
        for i, name in enumerate(self.res_layers[: self.out_indices[-1] + 1]):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return as_outputs(outs, images)

    def _blocks(self) -> list[nn.Module]:
        return [block for name in self.res_layers for block in getattr(self, name)]

    def _parts(self) -> list[nn.Module]:
        stages = [getattr(self, name) for name in self.res_layers]
        return [nn.ModuleList([self.conv1, self.norm1]), *stages]


@MODELS.register_module(force=True)
class ResNetACmix(BottleneckResNet):
    """ResNet with ACmix in place of the 3x3 convolution of every bottleneck.

    From `On the Integration of Self-Attention and Convolution
    <https://arxiv.org/abs/2111.14556>`_ (CVPR 2022), with the released code's
    sizes. Unlike that code's, the initial weights keep the shift kernels, as
    the paper says.

    Args:
        arch (str | int | dict): See :class:`BottleneckResNet`.
            Defaults to '50'.
        num_heads (int): Number of heads. Defaults to 4.
        window_size (int): Odd side of the attention's window. Defaults to 7.
        conv_kernel (int): Odd kernel size of the convolution path.
            Defaults to 3.
        rates (str): How the paths are weighed (table 6); see
            :class:`~mmdmformer.mixers.PathRates`. Defaults to 'learned'.
        shift (str): How the convolution path shifts maps (table 7); see
            :class:`~mmdmformer.mixers.ConvolutionPath`. Defaults to 'learned'.
        align_heads (bool): Whether the convolution path's output has the order
            of the attention path's; see
            :class:`~mmdmformer.mixers.ConvolutionPath`. Defaults to False.
        dilations (Sequence[int]): Ones: ACmix has no dilated form.
            Defaults to (1, 1, 1, 1).
        kwargs: Further arguments of :class:`BottleneckResNet`.

    Raises:
        ValueError: If an argument is out of range; the message says what is
            possible.

    Examples:
        >>> ResNetACmix('nano').eval()(torch.rand(1, 3, 64, 96))[0].shape
        torch.Size([1, 512, 2, 3])
    """

    block = ACmixBottleneck

    def __init__(
        self,
        arch: str | int | dict = '50',
        num_heads: int = 4,
        window_size: int = 7,
        conv_kernel: int = 3,
        rates: str = 'learned',
        shift: str = 'learned',
        align_heads: bool = False,
        dilations: Sequence[int] = (1, 1, 1, 1),
        **kwargs,
    ) -> None:
        if any(dilation != 1 for dilation in dilations):
            raise ValueError(
                f'dilations={tuple(dilations)} is not possible, as ACmix has no dilated form: keep '
                'dilations of 1, and lower the strides if larger maps are needed.'
            )
        self.block_cfg = dict(
            num_heads=num_heads,
            window_size=window_size,
            rates=rates,
            path_cfg=dict(kernel_size=conv_kernel, shift=shift, align_heads=align_heads),
        )
        super().__init__(arch, **kwargs)
