# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Swin Transformer as a dynamic convolutional network."""

from collections.abc import Sequence

import torch
from mmengine.registry import MODELS
from mmpretrain.models import SwinTransformer
from mmpretrain.models.utils import ShiftWindowMSA, resize_pos_embed
from torch import Tensor, nn

from ..layers import (
    BackboneContract,
    as_outputs,
    check_input_size,
    checkpoint_forward,
    normalize_out_indices,
    parse_arch,
)
from ..mixers import DynamicTokenAttention


class ShiftedWindows(ShiftWindowMSA):
    """mmpretrain's shifted windows, for any batch size in a traced network too."""

    @staticmethod
    def window_reverse(windows: Tensor, H: int, W: int, window_size: int) -> Tensor:
        """Join windows (B * num_windows, side, side, C) to maps (B, H, W, C)."""
        rows, columns = H // window_size, W // window_size
        maps = windows.view(-1, rows, columns, window_size, window_size, windows.shape[-1])
        return maps.transpose(2, 3).flatten(3, 4).flatten(1, 2)


@MODELS.register_module(force=True)  # instead of what imports this module
class DynamicSwin(BackboneContract, SwinTransformer):
    """Swin with self-attention as dynamic convolution.

    A PyTorch implementation of `Interpret Vision Transformers as ConvNets with
    Dynamic Convolutions <https://arxiv.org/abs/2309.10713>`_. All but the
    attention within a window is mmpretrain's SwinTransformer, whose weights
    ``activation='softmax'`` takes. Borders of maps that no whole number of
    windows covers are padded, as there, and the padding takes part.

    Args:
        arch (str | dict): ``'tiny'`` (``'t'``), ``'base'`` (``'b'``),
            ``'nano'`` (ours, for CPUs and tests), or a dict of

            - **embed_dims** (int): channels of the first stage, which double
              from stage to stage,
            - **depths** (Sequence[int]): blocks of each stage,
            - **num_heads** (Sequence[int]): heads of each stage.

            Defaults to 'tiny'.
        img_size (int): Height and width in pixels of the images that absolute positions
            are for; they are interpolated for others. Defaults to 224.
        in_channels (int): Channels of the image. Defaults to 3.
        window_size (int): Height and width of a window in tokens. Weights for another
            size are interpolated when loaded. Defaults to 7.
        activation (str): See :class:`~mmdmformer.mixers.DynamicTokenAttention`.
            Defaults to 'softmax'.
        kernel (str): See the mixer. Defaults to 'standard'.
        position (str): ``'relative'``, in each block, or ``'absolute'``,
            added to the patches. Defaults to 'relative'.
        qk_scale (float, optional): See the mixer. Defaults to None.
        rel_on_values (bool): See the mixer. Defaults to False.
        rel_per_channel (bool): See the mixer. Defaults to False.
        ln_affine (bool): See the mixer. Defaults to True.
        mask_by_einsum (bool): See the mixer; the paper's Swin-B with scaling is
            counted so, and its Swin-T is not. Defaults to False.
        pad_small_map (bool): Whether maps smaller than a window are padded,
            and those of its size have shifted windows too, as detection and
            segmentation need. Defaults to False.
        drop_path_rate (float): Stochastic depth rate of the last block; it
            rises linearly from 0. Defaults to 0.
        out_indices (int | Sequence[int]): Stages whose outputs are returned.
            Stages after the last one do not run. Defaults to -1, the last.
        frozen_stages (int): -1 freezes nothing, 0 the patches' embedding, k
            this and the first k stages. Defaults to -1.
        norm_eval (bool): Whether batch norm layers, of which there are none
            by default, do not update their statistics. Defaults to False.
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
        >>> import torch
        >>> from mmdmformer.backbones import DynamicSwin
        >>> mixer = dict(activation='none', kernel='depthwise')
        >>> model = DynamicSwin('nano', **mixer, pad_small_map=True, out_indices=(0, 1, 2, 3))
        >>> for feature in model.eval()(torch.rand(1, 3, 64, 96)):
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
            ['b', 'base'], dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))
        ),
        'nano': dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
    }
    min_input_side = 32

    def __init__(
        self,
        arch: str | dict = 'tiny',
        img_size: int = 224,
        in_channels: int = 3,
        window_size: int = 7,
        activation: str = 'softmax',
        kernel: str = 'standard',
        position: str = 'relative',
        qk_scale: float | None = None,
        rel_on_values: bool = False,
        rel_per_channel: bool = False,
        ln_affine: bool = True,
        mask_by_einsum: bool = False,
        pad_small_map: bool = False,
        drop_path_rate: float = 0.0,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = parse_arch(arch, self.arch_zoo)
        if position not in ('absolute', 'relative'):
            raise ValueError(f'position={position!r} is unknown: choose absolute or relative.')
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate} must be at least 0 and below 1.')
        num_stages = len(arch['depths'])
        super().__init__(
            arch=arch,
            img_size=img_size,
            in_channels=in_channels,
            window_size=window_size,
            drop_path_rate=drop_path_rate,
            out_indices=normalize_out_indices(out_indices, num_stages),
            use_abs_pos_embed=position == 'absolute',
            pad_small_map=pad_small_map,
        )
        self.with_cp = with_cp
        mixer_cfg = dict(
            activation=activation,
            kernel=kernel,
            position='relative' if position == 'relative' else 'none',
            qk_scale=qk_scale,
            rel_on_values=rel_on_values,
            rel_per_channel=rel_per_channel,
            ln_affine=ln_affine,
            mask_by_einsum=mask_by_einsum,
        )
        for stage, num_heads in zip(self.stages, arch['num_heads'], strict=True):
            for block in stage.blocks:
                stock = block.attn
                block.attn = ShiftedWindows(
                    stage.embed_dims,
                    num_heads,
                    window_size,
                    stock.shift_size,
                    dict(type='DropPath', drop_prob=getattr(stock.drop, 'drop_prob', 0.0)),
                    pad_small_map,
                    window_msa=DynamicTokenAttention,
                    **mixer_cfg,
                )
        if self.use_abs_pos_embed:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.stage_channels = tuple(self.num_features)
        self._set_contract(num_stages, out_indices, frozen_stages, norm_eval, init_cfg)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x (Tensor): Images of shape (B, in_channels, H, W), with H and W
                of at least 32 pixels, or, without ``pad_small_map``, of a window
                in the last stage.

        Returns:
            tuple[Tensor]: For each stage i of ``out_indices``, a feature map
            of stride 2 ** (i + 2).

        Raises:
            ValueError: If the images are too small.
        """
        if not torch.jit.is_tracing():
            check_input_size(x, self.min_input_side)
        images = x
        x, size = self.patch_embed(x)
        if self.use_abs_pos_embed:
            positions = self.absolute_pos_embed
            x = x + resize_pos_embed(
                positions, self.patch_resolution, size, self.interpolate_mode, 0
            )
        outs = []
        for i, stage in enumerate(self.stages):
            for block in stage.blocks:
                x = self._run(block, x, size)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x)
                outs.append(out.transpose(1, 2).unflatten(-1, size))
            if i == self.out_indices[-1]:
                break
            x, size = stage.downsample(x, size)
        return as_outputs(outs, images)

    def _run(self, block: nn.Module, x: Tensor, size: tuple[int, int]) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint_forward(block, lambda x: block(x, size), x)
        return block(x, size)

    def _blocks(self) -> list[nn.Module]:
        return [block for stage in self.stages for block in stage.blocks]

    def _parts(self) -> list[nn.Module]:
        positions = [self.absolute_pos_embed] if self.use_abs_pos_embed else []
        parts: list[nn.Module] = [nn.ModuleList([self.patch_embed, nn.ParameterList(positions)])]
        downsample: list[nn.Module] = []
        for i, stage in enumerate(self.stages):
            norm = [getattr(self, f'norm{i}')] if hasattr(self, f'norm{i}') else []
            parts.append(nn.ModuleList([*downsample, stage.blocks, *norm]))
            downsample = [stage.downsample]
        return parts

    def _prepare_relative_position_bias_table(self, *args, **kwargs) -> None:
        """Do nothing, as the attention modules resize their tables themselves."""
