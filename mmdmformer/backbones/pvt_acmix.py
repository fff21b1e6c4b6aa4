# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Pyramid Vision Transformer whose spatial-reduction attention is ACmix."""

from collections.abc import Sequence

import torch
from mmcv.cnn.bricks import DropPath
from mmdet.models.backbones.pvt import AbsolutePositionEmbedding, MixFFN, PVTEncoderLayer
from mmdet.models.layers import PatchEmbed
from mmengine.model import ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import (
    Backbone,
    as_outputs,
    check_input_size,
    checkpoint_forward,
    parse_arch,
)
from ..mixers.acmix import ACmixOperator
from ..mixers.acmix_attention import ReducedProjection, TokenAttention, TokenConvolutionPath

NORM_CFG: dict = dict(type='LN', eps=1e-6)


class ClassTokenEmbedding(AbsolutePositionEmbedding):
    """Adds positions to the grid's tokens, and puts a class token in front of them.

    Args:
        pos_shape (tuple[int, int]): Height and width of the grid that positions are
            learned for.
        pos_dim (int): Number of channels.
    """

    def __init__(self, pos_shape: tuple[int, int], pos_dim: int) -> None:
        super().__init__(pos_shape, pos_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, pos_dim))
        self.cls_pos_embed = nn.Parameter(torch.zeros(1, 1, pos_dim))

    def init_weights(self) -> None:
        """Initialize positions and the token."""
        super().init_weights()
        for parameter in (self.cls_token, self.cls_pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor, hw_shape: Sequence[int]) -> Tensor:
        """Map (B, H W, C) to (B, 1 + H W, C)."""
        x = super().forward(x, hw_shape)
        token = (self.cls_token + self.cls_pos_embed).expand(x.shape[0], -1, -1)
        return torch.cat((token, x), 1)


class PVTACmixBlock(PVTEncoderLayer):
    """mmdet's PVT block with ACmix for attention.

    Args:
        channels (int): Number of channels.
        num_heads (int): Number of heads.
        mlp_ratio (int): Expansion ratio of the FFN.
        sr_ratio (int): Spatial reduction of keys and values.
        num_extra_tokens (int): Class tokens in front of the grid's.
        kv (str): See :class:`~mmdmformer.mixers.acmix_attention.ReducedProjection`.
        rates (str): See :class:`~mmdmformer.mixers.PathRates`.
        path_cfg (dict): Further arguments of
            :class:`~mmdmformer.mixers.ConvolutionPath`.
        drop_path (float): Probability of dropping a residual branch.
        with_cp (bool): Whether to checkpoint activations.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        mlp_ratio: int,
        sr_ratio: int,
        num_extra_tokens: int,
        kv: str,
        rates: str,
        path_cfg: dict,
        drop_path: float,
        with_cp: bool,
    ) -> None:
        attention = TokenAttention(channels, num_heads)
        super().__init__(
            channels,
            num_heads,
            mlp_ratio * channels,
            drop_path_rate=drop_path,
            norm_cfg=NORM_CFG,
        )
        self.checkpointed = with_cp
        self.attn = ACmixOperator(
            ReducedProjection(channels, sr_ratio, kv, NORM_CFG),
            attention,
            TokenConvolutionPath(
                num_extra_tokens,
                3 * num_heads,
                channels // num_heads,
                channels,
                mixing_bias=True,
                **path_cfg,
            ),
            rates,
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, hw_shape: Sequence[int]) -> Tensor:
        """Map tokens ``x``, of shape (B, N, C), to the same shape."""
        if self.checkpointed and torch.is_grad_enabled():
            return checkpoint_forward(self, lambda x: self._forward(x, hw_shape), x)
        return self._forward(x, hw_shape)

    def _forward(self, x: Tensor, hw_shape: Sequence[int]) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), hw_shape))
        # The FFN takes maps; with a class token, there is only a column.
        return self.ffn(self.norm2(x), (x.shape[1], 1), identity=x)


@MODELS.register_module(force=True)
class PVTACmix(Backbone):
    """Pyramid Vision Transformer with ACmix in place of spatial-reduction attention.

    From `On the Integration of Self-Attention and Convolution
    <https://arxiv.org/abs/2111.14556>`_ (CVPR 2022), made of the parts of
    mmdet's PyramidVisionTransformer, under the same names. No code of it was
    released, and the paper does not say how keys and values of the reduced
    grid reach the convolution path; see ``kv``.

    Args:
        arch (str | dict): ``'tiny'`` (``'t'``), ``'small'`` (``'s'``),
            ``'large'`` (``'l'``), ``'nano'`` (ours, for CPUs and tests), or a
            dict with one number per stage in each of

            - **embed_dims** (Sequence[int]): channels,
            - **depths** (Sequence[int]): blocks,
            - **num_heads** (Sequence[int]): heads,
            - **mlp_ratios** (Sequence[int]): expansion ratios of the FFNs,
            - **sr_ratios** (Sequence[int]): spatial reduction of keys and
              values.

            Defaults to 'tiny'.
        img_size (int): Height and width in pixels of the images that positions are
            learned for; they are interpolated for others. Defaults to 224.
        in_channels (int): Channels of the image. Defaults to 3.
        cls_token (bool): Whether the last stage has a class token, as PVT's
            classifiers do. Its normalized state, of shape (B, C), then is the
            last stage's output. Defaults to False.
        kv (str): How keys and values reach the whole grid for the convolution
            path: ``'upsample'`` or ``'shared'``; see
            :class:`~mmdmformer.mixers.acmix_attention.ReducedProjection`.
            Defaults to 'upsample', which fits the paper's costs better.
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
        frozen_stages (int): -1 freezes nothing, 0 the first patch embedding
            and its positions, k this and the first k stages. Defaults to -1.
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
        >>> model = PVTACmix('nano', out_indices=(0, 1, 2, 3)).eval()
        >>> for feature in model(torch.rand(1, 3, 64, 96)):
        ...     print(tuple(feature.shape))
        (1, 16, 16, 24)
        (1, 32, 8, 12)
        (1, 80, 4, 6)
        (1, 128, 2, 3)
    """

    arch_zoo = {
        **dict.fromkeys(
            ['t', 'tiny'],
            dict(
                embed_dims=(64, 128, 320, 512),
                depths=(2, 2, 2, 2),
                num_heads=(1, 2, 5, 8),
                mlp_ratios=(8, 8, 4, 4),
                sr_ratios=(8, 4, 2, 1),
            ),
        ),
        **dict.fromkeys(
            ['s', 'small'],
            dict(
                embed_dims=(64, 128, 320, 512),
                depths=(3, 4, 6, 3),
                num_heads=(1, 2, 5, 8),
                mlp_ratios=(8, 8, 4, 4),
                sr_ratios=(8, 4, 2, 1),
            ),
        ),
        **dict.fromkeys(
            ['l', 'large'],
            dict(
                embed_dims=(64, 128, 320, 512),
                depths=(3, 8, 27, 3),
                num_heads=(1, 2, 5, 8),
                mlp_ratios=(8, 8, 4, 4),
                sr_ratios=(8, 4, 2, 1),
            ),
        ),
        'nano': dict(
            embed_dims=(16, 32, 80, 128),
            depths=(1, 1, 2, 1),
            num_heads=(1, 2, 5, 8),
            mlp_ratios=(8, 8, 4, 4),
            sr_ratios=(8, 4, 2, 1),
        ),
    }
    min_input_side = 32

    def __init__(
        self,
        arch: str | dict = 'tiny',
        img_size: int = 224,
        in_channels: int = 3,
        cls_token: bool = False,
        kv: str = 'upsample',
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
        num_stages, last = len(arch['depths']), len(arch['depths']) - 1
        _check_class_token(cls_token, rates, arch['sr_ratios'])
        super().__init__(num_stages, out_indices, frozen_stages, norm_eval, init_cfg)
        self.embed_dims, self.depths, self.cls_token = arch['embed_dims'], arch['depths'], cls_token
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(self.depths)).tolist())
        path_cfg = dict(kernel_size=conv_kernel, shift=shift, align_heads=align_heads)
        self.layers = ModuleList()
        for i, channels in enumerate(self.embed_dims):
            stride = 4 if i == 0 else 2
            embed = PatchEmbed(
                in_channels,
                channels,
                kernel_size=stride,
                stride=stride,
                padding=0,
                norm_cfg=NORM_CFG,
            )
            has_token = cls_token and i == last
            position = ClassTokenEmbedding if has_token else AbsolutePositionEmbedding
            side = img_size // 2 ** (i + 2)
            blocks = (
                PVTACmixBlock(
                    channels,
                    arch['num_heads'][i],
                    arch['mlp_ratios'][i],
                    arch['sr_ratios'][i],
                    int(has_token),
                    kv,
                    rates,
                    path_cfg,
                    next(drop_paths),
                    with_cp,
                )
                for _ in range(self.depths[i])
            )
            norm = nn.LayerNorm(channels, eps=NORM_CFG['eps']) if has_token else nn.Identity()
            layers = ModuleList([position((side, side), channels), *blocks])
            self.layers.append(ModuleList([embed, layers, norm]))
            in_channels = channels
        self._freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x (Tensor): Images of shape (B, in_channels, H, W), with H and W
                of at least 32 pixels.

        Returns:
            tuple[Tensor]: For each stage i of ``out_indices``, a feature map
            of stride 2 ** (i + 2); with ``cls_token``, the last stage gives
            the class token, of shape (B, C).

        Raises:
            ValueError: If the images are too small.
        """
        if not torch.jit.is_tracing():
            check_input_size(x, self.min_input_side)
        images = x
        outs = []
        for i in range(self.out_indices[-1] + 1):
            embed, layers, norm = self.layers[i]
            x, hw_shape = embed(x)
            for layer in layers:
                x = layer(x, hw_shape)
            if self.cls_token and i == len(self.depths) - 1:
                x = norm(x[:, 0])
            else:
                x = x.transpose(1, 2).unflatten(2, tuple(hw_shape))
            if i in self.out_indices:
                outs.append(x)
        return as_outputs(outs, images)

    def _blocks(self) -> list[nn.Module]:
        return [block for _, (_, *blocks), _ in self.layers for block in blocks]

    def _parts(self) -> list[nn.Module]:
        (embed, (position, *blocks), norm), *later = self.layers
        stem = nn.ModuleList([embed, position])
        return [stem, nn.ModuleList([*blocks, norm]), *later]

    def _init_layers(self) -> None:
        # As PVT's own code: its rule is for linear layers, which mmdet's FFNs hold as
        # convolutions.
        super()._init_layers()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, MixFFN):
                for layer in module.layers:
                    if isinstance(layer, nn.Conv2d):
                        nn.init.trunc_normal_(layer.weight, std=0.02)
                        if layer.bias is not None:
                            nn.init.zeros_(layer.bias)


def _check_class_token(cls_token: bool, rates: str, sr_ratios: Sequence[int]) -> None:
    if cls_token and rates == 'convolution':
        raise ValueError(
            'cls_token=True needs the attention path, without which the token sees no image: take '
            "cls_token=False with rates='convolution'."
        )
    if cls_token and sr_ratios[-1] != 1:
        raise ValueError(
            f'cls_token=True needs 1 as the last of sr_ratios, not {sr_ratios[-1]}, since a class '
            'token has no place in a reduced grid.'
        )
