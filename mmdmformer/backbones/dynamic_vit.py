# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The plain vision transformer as a dynamic convolutional network."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from mmpretrain.models import VisionTransformer
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from ..layers import (
    BackboneContract,
    LayerNorm2d,
    as_outputs,
    check_input_size,
    checkpoint_forward,
    parse_arch,
)
from ..mixers import DynamicTokenAttention

NUM_STAGES = 4


class SimpleFeaturePyramid(nn.Module):
    """Maps of four strides from the last map of a plain vision transformer.

    Source: `Exploring Plain Vision Transformer Backbones for Object Detection
    <https://arxiv.org/abs/2203.16527>`_, section 3, before the convolutions
    that bring all maps to the same width; those are the toolbox's neck.

    Args:
        channels (int): Channels C of the map, a multiple of 4.

    Examples:
        >>> for level in SimpleFeaturePyramid(64)(torch.rand(1, 64, 6, 4)):
        ...     print(tuple(level.shape))
        (1, 16, 24, 16)
        (1, 32, 12, 8)
        (1, 64, 6, 4)
        (1, 64, 3, 2)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.out_channels = (quarter, half, channels, channels)
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(channels, half, 2, stride=2),
                    LayerNorm2d(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, stride=2),
                ),
                nn.ConvTranspose2d(channels, half, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, C, H, W) to maps of 4, 2, 1 and 1/2 times its sides."""
        return [level(x) for level in self.levels]


class DynamicViTBlock(TransformerEncoderLayer):
    """mmpretrain's block with another token mixer.

    Args:
        arch (dict): Sizes of the network.
        mixer_cfg (dict): Arguments of
            :class:`~mmdmformer.mixers.DynamicTokenAttention`.
        drop_path (float): Probability of dropping a residual branch.
    """

    def __init__(self, arch: dict, mixer_cfg: dict, drop_path: float) -> None:
        channels, num_heads = arch['embed_dims'], arch['num_heads']
        super().__init__(
            channels,
            num_heads,
            arch['feedforward_channels'],
            drop_path_rate=drop_path,
            norm_cfg=dict(type='LN', eps=1e-6),
        )
        self.drop_path = self.attn.out_drop
        self.attn: Any = DynamicTokenAttention(channels, num_heads, **mixer_cfg)

    def init_weights(self) -> None:
        """Leave the initialization to the network, which treats all its layers alike."""
        BaseModule.init_weights(self)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map tokens of shape (B, N, C), of a grid of this size, to the same shape."""
        x = x + self.drop_path(self.attn(self.ln1(x), window_size=size))
        return self.ffn(self.ln2(x), identity=x)


@MODELS.register_module(force=True)  # instead of what imports this module
class DynamicViT(BackboneContract, VisionTransformer):
    """DeiT with self-attention as dynamic convolution.

    A PyTorch implementation of `Interpret Vision Transformers as ConvNets with
    Dynamic Convolutions <https://arxiv.org/abs/2309.10713>`_. All but the
    attention is mmpretrain's VisionTransformer, whose weights
    ``activation='softmax'`` takes. The blocks form four stages of equal
    depth, or about that.

    Args:
        arch (str | dict): ``'deit-small'`` (``'deit-s'``), ``'deit-base'``
            (``'deit-b'``), ``'nano'`` (ours, for CPUs and tests), or a dict of

            - **embed_dims** (int): channels C,
            - **num_layers** (int): blocks, at least 4,
            - **num_heads** (int): heads,
            - **feedforward_channels** (int): hidden channels of the FFNs.

            Defaults to 'deit-small'.
        img_size (int): Height and width in pixels of the images that the positions are
            for; they are interpolated for others. Defaults to 224.
        patch_size (int): Height and width of a patch in pixels. Defaults to 16.
        in_channels (int): Channels of the image. Defaults to 3.
        activation (str): See :class:`~mmdmformer.mixers.DynamicTokenAttention`.
            Defaults to 'softmax'.
        kernel (str): See the mixer. Defaults to 'standard'.
        position (str): ``'absolute'``, added to the patches, or
            ``'relative'``, in each block. Defaults to 'absolute'.
        with_cls_token (bool): Whether a class token stands in front of the
            patches. Defaults to True.
        out_type (str): ``'cls_token'`` or ``'avg_featmap'``, the average of
            the patches, of shape (B, C), for classification; ``'featmap'``,
            the map of the patches; ``'pyramid'``, maps of 1/4, 1/2, 1 and 2
            times the patch size as strides, made from the last map, for
            detection and segmentation. Defaults to 'cls_token'.
        qk_scale (float, optional): See the mixer. Defaults to None.
        rel_on_values (bool): See the mixer. Defaults to False.
        rel_per_channel (bool): See the mixer. Defaults to False.
        ln_affine (bool): See the mixer; it must be False where images are of
            several sizes. Defaults to True.
        drop_path_rate (float): Stochastic depth rate of the last block; it
            rises linearly from 0. Defaults to 0.
        out_indices (int | Sequence[int]): Stages, or levels of the pyramid,
            that are returned. Stages after the last one do not run, but for
            the pyramid. Defaults to -1, the last.
        frozen_stages (int): -1 freezes nothing, 0 the patches' embedding and
            the tokens, k these and the first k stages. Defaults to -1.
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
        >>> from mmdmformer.backbones import DynamicViT
        >>> model = DynamicViT('nano', activation='scaling', position='relative').eval()
        >>> [tuple(out.shape) for out in model(torch.rand(1, 3, 224, 224))]
        [(1, 64)]
        >>> model = DynamicViT('nano', out_type='pyramid', out_indices=(0, 1, 2, 3)).eval()
        >>> for level in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(level.shape))
        (1, 16, 16, 24)
        (1, 32, 8, 12)
        (1, 64, 4, 6)
        (1, 64, 2, 3)
    """

    arch_zoo = {
        **dict.fromkeys(
            ['deit-s', 'deit-small'],
            dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536),
        ),
        **dict.fromkeys(
            ['deit-b', 'deit-base'],
            dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072),
        ),
        'nano': dict(embed_dims=64, num_layers=4, num_heads=2, feedforward_channels=256),
    }
    OUT_TYPES = ('cls_token', 'avg_featmap', 'featmap', 'pyramid')

    def __init__(
        self,
        arch: str | dict = 'deit-small',
        img_size: int = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        activation: str = 'softmax',
        kernel: str = 'standard',
        position: str = 'absolute',
        with_cls_token: bool = True,
        out_type: str = 'cls_token',
        qk_scale: float | None = None,
        rel_on_values: bool = False,
        rel_per_channel: bool = False,
        ln_affine: bool = True,
        drop_path_rate: float = 0.0,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = parse_arch(arch, self.arch_zoo)
        if arch['num_layers'] < NUM_STAGES:
            raise ValueError(f'arch={arch} must have a num_layers of at least {NUM_STAGES}.')
        _check_out_type(out_type, self.OUT_TYPES, with_cls_token, patch_size)
        if position not in ('absolute', 'relative'):
            raise ValueError(f'position={position!r} is unknown: choose absolute or relative.')
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate} must be at least 0 and below 1.')
        super().__init__(
            arch={**arch, 'num_layers': 0},  # the blocks are ours
            img_size=img_size,
            patch_size=patch_size,
            in_channels=in_channels,
            out_indices=0,
            out_type='cls_token' if with_cls_token else 'featmap',
            with_cls_token=with_cls_token,
        )
        self.num_layers = arch['num_layers']
        self.out_type = out_type
        self.with_cp = with_cp
        self.min_input_side = 2 * patch_size
        mixer_cfg = dict(
            window_size=self.patch_resolution,
            activation=activation,
            kernel=kernel,
            position='relative' if position == 'relative' else 'none',
            qk_scale=qk_scale,
            rel_on_values=rel_on_values,
            rel_per_channel=rel_per_channel,
            ln_affine=ln_affine,
            num_extra_tokens=self.num_extra_tokens,
        )
        drop_paths = torch.linspace(0, drop_path_rate, self.num_layers, device='cpu').tolist()
        self.layers = ModuleList(DynamicViTBlock(arch, mixer_cfg, rate) for rate in drop_paths)
        if position == 'relative':
            self.pos_embed = None
        for tokens in (self.cls_token, self.pos_embed):
            if tokens is not None:
                nn.init.trunc_normal_(tokens, std=0.02)

        self.stage_ends = [self.num_layers * (i + 1) // NUM_STAGES for i in range(NUM_STAGES)]
        self.stage_channels = (self.embed_dims,) * NUM_STAGES
        self.pyramid = None
        if out_type == 'pyramid':
            self.pyramid = SimpleFeaturePyramid(self.embed_dims)
            self.stage_channels = self.pyramid.out_channels
        self._set_contract(NUM_STAGES, out_indices, frozen_stages, norm_eval, init_cfg)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs.

        Args:
            x (Tensor): Images of shape (B, in_channels, H, W), with sides of
                at least two patches.

        Returns:
            tuple[Tensor]: For each of ``out_indices``, what ``out_type`` says.

        Raises:
            ValueError: If the images are too small, or, with an affine layer
                norm of the attention map, not of the size of ``img_size``.
        """
        if not torch.jit.is_tracing():
            check_input_size(x, self.min_input_side)
        images = x
        x, size = self.patch_embed(x)
        x = self._add_tokens_and_positions(x, size)
        ends = [self.stage_ends[i] for i in self.out_indices]
        num_blocks = self.num_layers if self.pyramid is not None else ends[-1]
        outs = []
        for i, block in enumerate(self.layers):
            if i == num_blocks:
                break
            x = self._run(block, x, size)
            if i + 1 == self.num_layers:
                x = self.ln1(x)
            if i + 1 in ends and self.pyramid is None:
                outs.append(self._format_output(x, size))
        if self.pyramid is not None:
            x = x[:, self.num_extra_tokens :].transpose(1, 2).unflatten(-1, size)
            outs = self._crop_to_image(self.pyramid(x), images.shape[-2:])
        return as_outputs(outs, images)

    def _add_tokens_and_positions(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        if self.pos_embed is None:
            return x
        return x + resize_pos_embed(
            self.pos_embed,
            self.patch_resolution,
            size,
            self.interpolate_mode,
            self.num_extra_tokens,
        )

    def _run(self, block: DynamicViTBlock, x: Tensor, size: tuple[int, int]) -> Tensor:
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint_forward(block, lambda x: block(x, size), x)
        return block(x, size)

    def _format_output(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        patches = x[:, self.num_extra_tokens :]
        if self.out_type == 'avg_featmap':
            return patches.mean(dim=1)
        if self.out_type == 'featmap':
            return patches.transpose(1, 2).unflatten(-1, size)
        return super()._format_output(x, size)

    def _crop_to_image(self, levels: list[Tensor], image_size: Sequence[int]) -> list[Tensor]:
        outs = []
        for i in self.out_indices:
            # The patches at the border were padded; what lies outside of the image is dropped.
            stride = self.min_input_side * 2**i // 8
            height, width = (-(-side // stride) for side in image_size)
            outs.append(levels[i][..., :height, :width])
        return outs

    def _blocks(self) -> list[nn.Module]:
        return list(self.layers)

    def _parts(self) -> list[nn.Module]:
        tokens = [t for t in (self.cls_token, self.pos_embed) if t is not None]
        parts = [nn.ModuleList([self.patch_embed, nn.ParameterList(tokens)])]
        for start, end in zip([0, *self.stage_ends], self.stage_ends, strict=False):
            parts.append(nn.ModuleList(list(self.layers)[start:end]))
        parts[-1].append(self.ln1)
        return [*parts]

    def _freeze(self) -> None:
        if self.pyramid is None:
            super()._freeze()
            return
        # Every level comes from the last block, so that no block is idle.
        idle = [level for i, level in enumerate(self.pyramid.levels) if i not in self.out_indices]
        for part in self._frozen_parts() + idle:
            part.requires_grad_(False)

    def _prepare_pos_embed(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        if self.pos_embed is not None:
            super()._prepare_pos_embed(state_dict, prefix, *args, **kwargs)


def _check_out_type(
    out_type: str, out_types: Sequence[str], with_cls_token: bool, patch_size: int
) -> None:
    if out_type not in out_types:
        raise ValueError(f'out_type={out_type!r} is unknown: choose one of {", ".join(out_types)}.')
    if out_type == 'cls_token' and not with_cls_token:
        raise ValueError(
            "out_type='cls_token' needs with_cls_token=True: for the average of the patches set "
            "out_type='avg_featmap'."
        )
    if out_type == 'pyramid' and patch_size % 4:
        raise ValueError(f"patch_size={patch_size} must be a multiple of 4 for out_type='pyramid'.")
