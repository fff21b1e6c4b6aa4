# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer's configs."""

from .courses import coco, imagenet, semantic_fpn, upernet
from .family import Family, Recipe

ABLATIONS = ('s-r1', 's-single-7x7', 's-no-dilation', 's-no-residual', 's-no-gate')


def adamw(lr: float, weight_decay: float) -> dict:
    return dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay)


COCO = Recipe(
    optimizer=adamw(1e-4, 1e-4),
    batch=16,
    length=dict(max_epochs=12),
    course=coco(12, (8, 11), 1e-4),
    arch='small',
    drop_path_rate=0.1,
)

FAMILY = Family(
    experiments={
        'dmformer-{}_8xb128_in1k': ('s', 'l', *ABLATIONS, 's-hybrid'),
        'retinanet_dmformer-{}_fpn_8xb2-1x_coco': ('s', 'l', *ABLATIONS, 's-hybrid'),
        'mask-rcnn_dmformer-{}_fpn_8xb2-1x_coco': ('s', 'l'),
        'dmformer-{}_sem-fpn_8xb2-40k_ade20k-512x512': ('s', 'l', *ABLATIONS, 's-hybrid'),
        'dmformer-{}_upernet_8xb2-160k_ade20k-512x512': ('s', 'l'),
        'retinanet_dmformer-{}_fpn_8xb2-layer-decay-1x_coco': ('s',),
        'dmformer-{}_upernet_8xb2-layer-decay-160k_ade20k-512x512': ('s',),
    },
    parameters={
        # published, or following from what is published
        'dmformer-s_8xb128_in1k': 26_660_392,
        'dmformer-l_8xb128_in1k': 44_983_464,
        'dmformer-s-r1_8xb128_in1k': 26_947_240,
        'dmformer-s-single-7x7_8xb128_in1k': 26_181_160,
        'dmformer-s-no-dilation_8xb128_in1k': 26_660_392,
        'dmformer-s-no-residual_8xb128_in1k': 26_660_392,
        'dmformer-s-no-gate_8xb128_in1k': 26_169_640,
        'retinanet_dmformer-s_fpn_8xb2-1x_coco': 36_397_364,
        'retinanet_dmformer-l_fpn_8xb2-1x_coco': 54_720_436,
        'mask-rcnn_dmformer-s_fpn_8xb2-1x_coco': 46_314_800,
        'mask-rcnn_dmformer-l_fpn_8xb2-1x_coco': 64_637_872,
        'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512': 30_414_038,
        'dmformer-s_upernet_8xb2-160k_ade20k-512x512': 56_635_244,
        # computed
        'dmformer-s-hybrid_8xb128_in1k': 26_775_848,
        'retinanet_dmformer-s-hybrid_fpn_8xb2-1x_coco': 36_512_820,
        'dmformer-s-hybrid_sem-fpn_8xb2-40k_ade20k-512x512': 30_529_494,
        'retinanet_dmformer-s-r1_fpn_8xb2-1x_coco': 36_684_212,
        'retinanet_dmformer-s-single-7x7_fpn_8xb2-1x_coco': 35_918_132,
        'retinanet_dmformer-s-no-dilation_fpn_8xb2-1x_coco': 36_397_364,
        'retinanet_dmformer-s-no-residual_fpn_8xb2-1x_coco': 36_397_364,
        'retinanet_dmformer-s-no-gate_fpn_8xb2-1x_coco': 35_906_612,
        'retinanet_dmformer-s_fpn_8xb2-layer-decay-1x_coco': 36_397_364,
        'dmformer-l_sem-fpn_8xb2-40k_ade20k-512x512': 48_737_110,
        'dmformer-s-r1_sem-fpn_8xb2-40k_ade20k-512x512': 30_700_886,
        'dmformer-s-single-7x7_sem-fpn_8xb2-40k_ade20k-512x512': 29_934_806,
        'dmformer-s-no-dilation_sem-fpn_8xb2-40k_ade20k-512x512': 30_414_038,
        'dmformer-s-no-residual_sem-fpn_8xb2-40k_ade20k-512x512': 30_414_038,
        'dmformer-s-no-gate_sem-fpn_8xb2-40k_ade20k-512x512': 29_923_286,
        'dmformer-l_upernet_8xb2-160k_ade20k-512x512': 74_958_316,
        'dmformer-s_upernet_8xb2-layer-decay-160k_ade20k-512x512': 56_635_244,
    },
    recipes={
        'dmformer-s_8xb128_in1k': Recipe(
            optimizer=adamw(1e-3, 0.05),
            batch=1024,
            length=dict(max_epochs=300),
            course=imagenet(300, 5, 1e-3, 1e-6, 1e-5),
            arch='small',
            drop_path_rate=0.2,
            test_side=248,
            norms_undecayed=True,
            undecayed=r'.*(\.bias|\.layer_scale_\w+)',
        ),
        'retinanet_dmformer-s_fpn_8xb2-1x_coco': COCO,
        'mask-rcnn_dmformer-s_fpn_8xb2-1x_coco': COCO,
        'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512': Recipe(
            optimizer=adamw(2e-4, 1e-4),
            batch=16,
            length=dict(max_iters=40_000),
            course=semantic_fpn(),
            arch='small',
            drop_path_rate=0.1,
        ),
        'dmformer-s_upernet_8xb2-160k_ade20k-512x512': Recipe(
            optimizer=adamw(6e-5, 0.01),
            batch=16,
            length=dict(max_iters=160_000),
            course=upernet(),
            arch='small',
            drop_path_rate=0.3,
            norms_undecayed=True,
        ),
    },
    variants=(
        {'arch'},
        {'arch', 'expand_ratio'},
        {'kernel_sizes', 'dilations'},
        {'dilations'},
        {'residual'},
        {'arch', 'gate'},
        {'arch', 'mixer'},
    ),
    nano={'DMFormer': 859_824},
    norms={'DMFormer': {'backbone.stages.3.norm.weight', 'backbone.stem.1.bias'}},
    with_mini_config={
        'dmformer-s_8xb128_in1k',
        'retinanet_dmformer-s_fpn_8xb2-1x_coco',
        'mask-rcnn_dmformer-s_fpn_8xb2-1x_coco',
        'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512',
        'dmformer-s_upernet_8xb2-160k_ade20k-512x512',
    },
)
