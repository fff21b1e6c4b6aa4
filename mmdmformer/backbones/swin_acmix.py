# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Swin Transformer whose window attention is ACmix."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS
from mmpretrain.models import SwinTransformer
from mmpretrain.models.backbones.swin_transformer import SwinBlock
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
from ..mixers.acmix_attention import QKVLinear, ShiftedWindowAttention


class ShiftedWindowACmix(nn.Module):
    """ACmix on a map that is padded to whole windows and may be rolled.

    The convolution path sees the rolled map as it is: the seam of the roll is
    a neighborhood like others, as in the released code.

    Args:
        channels (int): Number of channels.
        num_heads (int): Number of heads.
        window_size (int): Side of the windows.
        shift (bool): Whether the map is rolled by half a window, unless it is
            not larger than one.
        rates (str): See :class:`~mmdmformer.mixers.PathRates`.
        path_cfg (dict): Further arguments of
            :class:`~mmdmformer.mixers.ConvolutionPath`.
        drop_path (float): Probability of dropping the output.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        shift: bool,
        rates: str,
        path_cfg: dict,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = window_size // 2 if shift else 0
        attention = ShiftedWindowAttention(channels, num_heads, window_size)
        convolution = ConvolutionPath(
            3 * num_heads, channels // num_heads, channels, mixing_bias=True, **path_cfg
        )
        self.acmix = ACmixOperator(QKVLinear(channels), attention, convolution, rates)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, hw_shape: Sequence[int]) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Tokens of shape (B, H W, C).
            hw_shape (Sequence[int]): Height and width.

        Returns:
            Tensor: Output of shape (B, H W, C).
        """
        height, width = hw_shape
        shift = self.shift if min(height, width) > self.window_size else 0
        below, right = -height % self.window_size, -width % self.window_size
        x = F.pad(x.unflatten(1, (height, width)), (0, 0, 0, right, 0, below))
        x = torch.roll(x, (-shift, -shift), (1, 2))
        x = torch.roll(self.acmix(x, shift), (shift, shift), (2, 3))
        return self.drop_path(x[:, :, :height, :width].flatten(2).transpose(1, 2))


class SwinACmixBlock(SwinBlock):
    """mmpretrain's Swin block with ACmix for attention.

    Args:
        channels (int): Number of channels.
        num_heads (int): Number of heads.
        window_size (int): Side of the windows.
        shift (bool): Whether windows are shifted.
        drop_path (float): Probability of dropping a residual branch.
        with_cp (bool): Whether to checkpoint activations.
        rates (str): See :class:`~mmdmformer.mixers.PathRates`.
        path_cfg (dict): Further arguments of
            :class:`~mmdmformer.mixers.ConvolutionPath`.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window_size: int,
        shift: bool,
        drop_path: float,
        with_cp: bool,
        rates: str,
        path_cfg: dict,
    ) -> None:
        super().__init__(channels, num_heads, window_size, shift, drop_path=drop_path)
        self.checkpointed = with_cp
        self.attn: ShiftedWindowACmix | TokenConvolution = ShiftedWindowACmix(
            channels, num_heads, window_size, shift, rates, path_cfg, drop_path
        )

    def forward(self, x: Tensor, hw_shape: Sequence[int]) -> Tensor:
        """Map tokens ``x``, of shape (B, H W, C), to the same shape."""
        forward = super().forward
        if self.checkpointed and torch.is_grad_enabled():
            return checkpoint_forward(self, lambda x: forward(x, hw_shape), x)
        return forward(x, hw_shape)


class ConvSwinBlock(SwinACmixBlock):
    """The same block with a dense convolution in place of ACmix.

    Args:
        channels (int): Number of channels.
        *args: As of :class:`SwinACmixBlock`.
    """

    def __init__(self, channels: int, *args) -> None:
        super().__init__(channels, *args)
        self.attn = TokenConvolution(channels, self.attn.drop_path)


class TokenConvolution(nn.Module):
    """A dense 3x3 convolution of the tokens of a map.

    Args:
        channels (int): Number of channels.
        drop_path (nn.Module): What drops the output.
    """

    def __init__(self, channels: int, drop_path: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.drop_path = drop_path

    def forward(self, x: Tensor, hw_shape: Sequence[int]) -> Tensor:
        """Map tokens ``x``, of shape (B, H W, C), to the same shape."""
        x = self.conv(x.transpose(1, 2).unflatten(2, tuple(hw_shape)))
        return self.drop_path(x.flatten(2).transpose(1, 2))


@MODELS.register_module(force=True)
class SwinACmix(BackboneContract, SwinTransformer):
    """Swin Transformer with ACmix in place of window attention.

    From `On the Integration of Self-Attention and Convolution
    <https://arxiv.org/abs/2111.14556>`_ (CVPR 2022). All else is mmpretrain's
    SwinTransformer, but that maps of any size are taken: those smaller than a
    window are padded to one. ``tools/model_converters/swin_acmix.py`` converts
    the two checkpoints that the authors released.

    Args:
        arch (str | dict): ``'tiny'`` (``'t'``), ``'small'`` (``'s'``),
            ``'nano'`` (ours, for CPUs and tests), or a dict of

            - **embed_dims** (int): channels of the first stage, which double
              from stage to stage,
            - **depths** (Sequence[int]): blocks of each stage,
            - **num_heads** (Sequence[int]): heads of each stage.

            Defaults to 'tiny'.
        in_channels (int): Channels of the image. Defaults to 3.
        window_size (int): Side of the windows. Defaults to 7.
        conv_kernel (int): Odd kernel size of the convolution path.
            Defaults to 3.
        rates (str): How the paths are weighed (table 6); see
            :class:`~mmdmformer.mixers.PathRates`. Defaults to 'learned'.
        shift (str): How the convolution path shifts maps (table 7); see
            :class:`~mmdmformer.mixers.ConvolutionPath`. Defaults to 'learned'.
        align_heads (bool): Whether the convolution path's output has the order
            of the attention path's; see
            :class:`~mmdmformer.mixers.ConvolutionPath`. Defaults to False.
        drop_path_rate (float): Stochastic depth rate of the last block; it
            rises linearly from 0. Defaults to 0.
        out_indices (int | Sequence[int]): Stages whose outputs are returned.
            Stages after the last one do not run. Defaults to -1, the last.
        frozen_stages (int): -1 freezes nothing, 0 the patch embedding, k this
            and the first k stages. Defaults to -1.
        norm_eval (bool): Whether batch norm layers, of which there are none,
            use their running statistics in training. Defaults to False.
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
        >>> model = SwinACmix('nano', out_indices=(0, 1, 2, 3)).eval()
        >>> for feature in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(feature.shape))
        (1, 16, 16, 24)
        (1, 32, 8, 12)
        (1, 64, 4, 6)
        (1, 128, 2, 3)
    """

    arch_zoo = {
        **dict.fromkeys(
            ['t', 'tiny'], dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24))
        ),
        **dict.fromkeys(
            ['s', 'small'], dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24))
        ),
        'nano': dict(embed_dims=16, depths=(2, 2, 2, 1), num_heads=(1, 2, 4, 8)),
    }
    min_input_side = 32
    block_type: type[SwinACmixBlock] = SwinACmixBlock

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        window_size: int = 7,
        conv_kernel: int = 3,
        rates: str = 'learned',
        shift: str = 'learned',
        align_heads: bool = False,
        drop_path_rate: float = 0.0,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = parse_arch(arch, self.arch_zoo)
        depths, num_stages = arch['depths'], len(arch['depths'])
        super().__init__(
            {**arch, 'depths': (0,) * num_stages},  # the blocks are not mmpretrain's
            in_channels=in_channels,
            out_indices=normalize_out_indices(out_indices, num_stages),
        )
        self.depths = depths
        self.stage_channels = tuple(self.num_features)
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        path_cfg = dict(kernel_size=conv_kernel, shift=shift, align_heads=align_heads)
        for stage, depth, num_heads in zip(self.stages, depths, arch['num_heads'], strict=True):
            stage.blocks.extend(
                self.block_type(
                    stage.embed_dims,
                    num_heads,
                    window_size,
                    i % 2 == 1,
                    next(drop_paths),
                    with_cp,
                    rates,
                    path_cfg,
                )
                for i in range(depth)
            )
        self._set_contract(num_stages, out_indices, frozen_stages, norm_eval, init_cfg)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x (Tensor): Images of shape (B, in_channels, H, W), with H and W
                of at least 32 pixels.

        Returns:
            tuple[Tensor]: For each stage i of ``out_indices``, a feature map
            of stride 2 ** (i + 2), after a layer norm.

        Raises:
            ValueError: If the images are too small.
        """
        if not torch.jit.is_tracing():
            check_input_size(x, self.min_input_side)
        images = x
        x, hw_shape = self.patch_embed(x)
        outs = []
        for i in range(self.out_indices[-1] + 1):
            stage = self.stages[i]
            if i > 0:
                x, hw_shape = self.stages[i - 1].downsample(x, hw_shape)
            x, _ = stage(x, hw_shape, do_downsample=False)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x)
                outs.append(out.transpose(1, 2).unflatten(2, tuple(hw_shape)))
        return as_outputs(outs, images)

    def _blocks(self) -> list[nn.Module]:
        return [block for stage in self.stages for block in stage.blocks]

    def _parts(self) -> list[nn.Module]:
        stages = []
        for i, stage in enumerate(self.stages):
            before = [self.stages[i - 1].downsample] if i > 0 else []
            norm = [getattr(self, f'norm{i}')] if i in self.out_indices else []
            stages.append(nn.ModuleList([*before, stage.blocks, *norm]))
        return [self.patch_embed, *stages]

    def _prepare_relative_position_bias_table(self, *args) -> None:
        """Do nothing where mmpretrain's networks resize tables by a function scipy has dropped."""

    def _init_layers(self) -> None:
        super()._init_layers()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()  # as the released code, whose rule is for linear layers


@MODELS.register_module(force=True)
class ConvSwin(SwinACmix):
    """Swin Transformer with a dense 3x3 convolution in place of each attention.

    The convolutional baseline of ACmix's table 6 (Conv-Swin-T). The paper
    prints 39 M parameters and 4.5 G multiply-adds; a convolution with a bias
    gives 39,034,504 and 6.084 G.

    Args:
        arch (str | dict): See :class:`SwinACmix`, whose heads mean nothing
            here. Defaults to 'tiny'.
        in_channels (int): Channels of the image. Defaults to 3.
        drop_path_rate (float): Stochastic depth rate of the last block; it
            rises linearly from 0. Defaults to 0.
        out_indices (int | Sequence[int]): Stages whose outputs are returned.
            Defaults to -1, the last.
        frozen_stages (int): See :class:`SwinACmix`. Defaults to -1.
        norm_eval (bool): See :class:`SwinACmix`. Defaults to False.
        with_cp (bool): See :class:`SwinACmix`. Defaults to False.
        init_cfg (dict | list[dict], optional): See :class:`SwinACmix`.
            Defaults to None.

    Raises:
        ValueError: If an argument is out of range; the message says what is
            possible.

    Examples:
        >>> model = ConvSwin('nano').eval()
        >>> model(torch.rand(1, 3, 64, 96))[0].shape
        torch.Size([1, 128, 2, 3])
    """

    block_type = ConvSwinBlock

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            arch,
            in_channels,
            drop_path_rate=drop_path_rate,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
