# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer-nano, its ablations and other networks, at equal parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BASELINE = 'DMFormer'


@dataclass(frozen=True)
class Network:
    """A backbone of about the parameters of DMFormer-nano.

    Attributes:
        backbone (dict): Its config, with the outputs of all four stages.
        channels (Sequence[int]): Channels of these.
    """

    backbone: dict
    channels: Sequence[int]


def _dmformer(depths: Sequence[int], **options: object) -> Network:
    widths = (16, 32, 80, 128)
    arch = dict(embed_dims=widths, depths=tuple(depths), ffn_ratios=(8, 8, 4, 4))
    backbone = dict(type='DMFormer', arch=arch, out_indices=(0, 1, 2, 3), **options)
    return Network(backbone, widths)


def _toolbox(
    name: str, channels: Sequence[int], init_cfg: list[dict] | None, **options: object
) -> Network:
    # Some of mmpretrain's networks freeze their stem or first stage unless they are told not to.
    backbone = dict(type=f'mmpretrain.{name}', out_indices=(0, 1, 2, 3), frozen_stages=-1)
    if init_cfg is not None:
        backbone['init_cfg'] = init_cfg
    return Network({**backbone, **options}, channels)


def _init_cfg(layers: Sequence[str], norm: str) -> list[dict]:
    """How mmpretrain's configs initialize the classifiers of a network."""
    return [
        dict(type='TruncNormal', layer=list(layers), std=0.02, bias=0.0),
        dict(type='Constant', layer=[norm], val=1.0, bias=0.0),
    ]


# Blocks are added where a network would be too small. Layer scales begin with DMFormer's 1e-2: the
# networks' own 1e-5 and 1e-6 are for longer training.
NETWORKS = {
    BASELINE: _dmformer((1, 1, 2, 1)),
    'no expansion': _dmformer((1, 1, 5, 1), mixer=dict(expand_ratio=1)),
    'single 7x7': _dmformer((1, 2, 2, 1), mixer=dict(kernel_sizes=(7,), dilations=(3,))),
    'no dilation': _dmformer((1, 1, 2, 1), mixer=dict(dilations=(1, 1, 1))),
    'no residual': _dmformer((1, 1, 2, 1), mixer=dict(residual=False)),
    'no gate': _dmformer((1, 2, 2, 1), mixer=dict(gate=False)),
    'VAN': _toolbox(
        'VAN',
        (16, 32, 80, 128),
        _init_cfg(['Linear'], 'LayerNorm'),
        arch=dict(embed_dims=(16, 32, 80, 128), depths=(1, 1, 4, 2), ffn_ratios=(8, 8, 4, 4)),
    ),
    'Swin': _toolbox(
        'SwinTransformer',
        (18, 36, 72, 144),
        _init_cfg(['Linear'], 'LayerNorm'),
        arch=dict(embed_dims=18, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8)),
        drop_path_rate=0.0,
        pad_small_map=True,
    ),
    'ConvNeXt': _toolbox(
        'ConvNeXt',
        (20, 40, 80, 160),
        None,
        arch=dict(channels=(20, 40, 80, 160), depths=(2, 2, 6, 2)),
        layer_scale_init_value=1e-2,
        gap_before_final_norm=False,
    ),
    'PoolFormer': _toolbox(
        'PoolFormer',
        (16, 32, 80, 128),
        _init_cfg(['Conv2d', 'Linear'], 'GroupNorm'),
        arch=dict(embed_dims=(16, 32, 80, 128), layers=(2, 2, 6, 3), layer_scale_init_value=1e-2),
        out_indices=(0, 2, 4, 6),
    ),
    'ResNet': _toolbox(
        'ResNet', (48, 96, 192, 384), None, depth=50, base_channels=12, stem_channels=16
    ),
}
