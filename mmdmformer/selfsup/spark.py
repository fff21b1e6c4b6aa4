# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Masked pretraining of DMFormer on images without labels.

From `Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling
<https://arxiv.org/abs/2301.03580>`_ (ICLR 2023), of which mmpretrain has the algorithm.
"""

from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model.weight_init import trunc_normal_
from mmpretrain.models import SparK as MMPretrainSparK
from mmpretrain.models.utils import (
    SparseBatchNorm2d,
    SparseConv2d,
    SparseHelper,
    SparseLayerNorm2D,
    SparseSyncBatchNorm2d,
    build_norm_layer,
)
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbones.metaformer import MetaFormer, MetaFormerBlock, MetaFormerStage
from ..layers import ConvFFN
from ..mixers.dma import DMA, ChannelGate


class SparseChannelGate(ChannelGate):
    """The gate of DMA, from the average over the visible positions alone.

    Args:
        channels (int): Number of channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Compute the gates, of shape (B, C, 1, 1), of ``x``, of shape (B, C, H, W)."""
        visible = SparseHelper._get_active_map_or_index(x.shape[2])
        return self.fcs((x * visible).sum((2, 3)) / visible.sum((2, 3)))[:, :, None, None]


# The first that fits counts: synchronized batch norms are batch norms as well.
_SPARSE = {
    nn.Conv2d: SparseConv2d,
    nn.SyncBatchNorm: SparseSyncBatchNorm2d,
    _BatchNorm: SparseBatchNorm2d,
    nn.LayerNorm: SparseLayerNorm2D,
    ChannelGate: SparseChannelGate,
}
# These call their parts, or map each position for itself, and zero to zero.
_ALREADY_SPARSE = (
    *(MetaFormer, MetaFormerStage, MetaFormerBlock, DMA, ConvFFN, nn.Sequential, nn.ModuleList),
    *(nn.ReLU, nn.GELU, nn.Identity, DropPath),
)


def make_sparse(module: nn.Module) -> None:
    """Let a network compute from, and at, the visible positions alone.

    What it is made of gets the forward pass of mmpretrain's sparse modules:
    the outputs of convolutions are zero at masked positions, batch norms take
    the statistics of the visible ones, and so does the average of DMA's gate.
    Names and weights stay. ``SparseHelper._cur_active`` says what is visible.

    Args:
        module (nn.Module): A :class:`~mmdmformer.MetaFormer` of DMA mixers,
            or a part of one.

    Raises:
        ValueError: If a part is of a kind that would mix masked positions with
            visible ones.

    Examples:
        >>> from mmdmformer import DMFormer
        >>> model = DMFormer('nano')
        >>> names = list(model.state_dict())
        >>> make_sparse(model)
        >>> type(model.stem[0]).__name__, list(model.state_dict()) == names
        ('SparseConv2d', True)
    """
    for dense, sparse in _SPARSE.items():
        if isinstance(module, dense):
            module.__class__ = sparse
            return
    if not isinstance(module, _ALREADY_SPARSE):
        raise ValueError(
            f'model.backbone has a {type(module).__name__}, for which SparK cannot tell masked '
            "from visible positions: use type='DMFormer' with mixers of type='DMA', batch or "
            'layer norms, ReLU or GELU, and deploy=False.'
        )
    for child in module.children():
        make_sparse(child)


class SparK(MMPretrainSparK):
    """mmpretrain's SparK for DMFormer.

    Random patches of an image are masked, the network computes from the others
    alone, and a light decoder paints the masked ones. mmpretrain's own class
    wants a network that is written for it, whose channels double from stage
    to stage. This one makes DMFormer sparse (see :func:`make_sparse`), whatever
    its channels. The checkpoint holds the weights of an ordinary DMFormer under
    ``backbone.``.

    In a config: ``type='mmdmformer.selfsup.spark.SparK'``, which needs no import.

    Args:
        backbone (dict): Config of a DMFormer with all stages in its
            ``out_indices``.
        neck (dict): Config of mmpretrain's ``SparKLightDecoder``.
        head (dict): Config of mmpretrain's ``SparKPretrainHead``.
        input_size (int): Height and width of the images, in pixels. Defaults to 224.
        mask_ratio (float): Share of the patches that are masked.
            Defaults to 0.6.
        enc_dec_norm_cfg (dict): Config of the norm of each feature map before
            the decoder. Defaults to ``dict(type='SparseLN2d', eps=1e-6)``.
        **options: Further arguments of mmpretrain's SparK.

    Raises:
        ValueError: If the backbone is another one or lacks a stage, or if the
            images are not made of patches of which some are masked and some
            are not.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        input_size: int = 224,
        mask_ratio: float = 0.6,
        enc_dec_norm_cfg: dict = dict(type='SparseLN2d', eps=1e-6),
        **options: Any,
    ) -> None:
        super().__init__(
            backbone,
            neck,
            head,
            input_size=input_size,
            mask_ratio=mask_ratio,
            enc_dec_norm_cfg=enc_dec_norm_cfg,
            **options,
        )
        make_sparse(self.backbone)
        self._check_arguments()
        self._connect_decoder()

    def _check_arguments(self) -> None:
        stages = tuple(range(len(self.backbone.stages)))
        if self.backbone.out_indices != stages:
            raise ValueError(
                f'model.backbone.out_indices={self.backbone.out_indices} must be {stages}: '
                "SparK's decoder takes the maps of all stages."
            )
        patch, num_patches = self.downsample_raito, self.feature_map_size**2
        if self.input_size % patch or not 0 < self.len_keep < num_patches:
            raise ValueError(
                f'model.input_size={self.input_size} with mask_ratio={self.mask_ratio} leaves '
                f'{self.len_keep} of {num_patches} patches visible: choose a multiple of {patch} '
                'pixels and a ratio such that some are masked and some are not, as 224 and 0.6.'
            )

    def _connect_decoder(self) -> None:
        """Make anew what mmpretrain makes for channels that double from stage to stage."""
        self.enc_dec_norms, self.enc_dec_projectors = nn.ModuleList(), nn.ModuleList()
        self.mask_tokens = nn.ParameterList()
        for i, channels in enumerate(reversed(self.backbone.out_channels)):
            width, kernel_size = self.neck.feature_dim // 2**i, 3 if i else 1
            connected = kernel_size == 1 and channels == width
            self.enc_dec_norms.append(build_norm_layer(self.enc_dec_norm_cfg, channels))
            self.enc_dec_projectors.append(
                nn.Identity()
                if connected
                else nn.Conv2d(channels, width, kernel_size, padding=kernel_size // 2)
            )
            token = nn.Parameter(torch.zeros(1, channels, 1, 1))
            trunc_normal_(token, std=0.02, a=-0.02, b=0.02)
            self.mask_tokens.append(token)

    def loss(self, inputs: Tensor, data_samples: list | None, **kwargs: Any) -> dict[str, Tensor]:
        """Compute the loss of one batch.

        Args:
            inputs (Tensor): Images of shape (B, C, input_size, input_size).
            data_samples (list, optional): Not used.
            **kwargs: Not used.

        Returns:
            dict[str, Tensor]: The ``'loss'``: the mean squared error at the
            masked patches.

        Raises:
            ValueError: If the images are of another size.
        """
        if tuple(inputs.shape[2:]) != (self.input_size, self.input_size):
            raise ValueError(
                f'images of {inputs.shape[2]}x{inputs.shape[3]} pixels for '
                f'model.input_size={self.input_size}: make it the scale of RandomResizedCrop.'
            )
        # Again, as a runner exchanges batch norms for synchronized ones, or the other way round.
        make_sparse(self.backbone)
        return super().loss(inputs, data_samples, **kwargs)
