# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The configs of vision transformers as dynamic convolutions."""

from .courses import coco, imagenet, upernet
from .family import Family, Recipe

DEIT = ('none', 'scaling', 'scaling-relu', 'depthwise')
DEIT_RELATIVE = ('scaling', 'scaling-relu', 'ln', 'gap-ln', 'gap-ln-relu', 'depthwise')
SWIN = ('none', 'scaling', 'scaling-relu', 'ln', 'ln-relu', 'depthwise', 'depthwise-per-channel')
TABLE = r'.*relative_position_bias_table'


def adamw(lr: float, weight_decay: float) -> dict:
    return dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay)


def classifier(arch: str, drop_path_rate: float, averaged: bool) -> Recipe:
    """Table 4 of the paper; DeiT alone has repeated augmentation and averaged weights."""
    return Recipe(
        optimizer=adamw(1e-3, 0.05),
        batch=1024,
        length=dict(max_epochs=300),
        course=imagenet(300, 20, 1e-3, 1e-6, 1e-5),
        arch=arch,
        drop_path_rate=drop_path_rate,
        norms_undecayed=True,
        undecayed=rf'{TABLE}|.*(\.bias|\.cls_token|pos_embed)',
        clip_grad=dict(max_norm=5.0),
        repeated_augmentation=averaged,
        ema=averaged,
        head_std=0.02,
    )


FAMILY = Family(
    experiments={
        'dynamic-deit-s{}_8xb128_in1k': (
            '',
            *(f'-{name}' for name in DEIT),
            '-rel',
            *(f'-rel-{name}' for name in DEIT_RELATIVE),
        ),
        'dynamic-deit-b{}_8xb128_in1k': ('', '-rel', '-rel-depthwise'),
        'dynamic-swin-t{}_8xb128_in1k': (
            '',
            *(f'-{name}' for name in SWIN),
            *('-abs', '-abs-scaling', '-abs-scaling-relu'),
        ),
        'dynamic-swin-b{}_8xb128_in1k': ('', '-scaling', '-depthwise'),
        'retinanet_dynamic-swin-t-depthwise_fpn_8xb2-1x_coco': ('',),
        'dynamic-swin-t-depthwise_upernet_8xb2-160k_ade20k-512x512': ('',),
    },
    parameters={
        'dynamic-deit-s_8xb128_in1k': 22_050_664,
        'dynamic-deit-s-none_8xb128_in1k': 22_050_664,
        'dynamic-deit-s-scaling_8xb128_in1k': 22_050_664,
        'dynamic-deit-s-scaling-relu_8xb128_in1k': 22_050_664,
        'dynamic-deit-s-rel_8xb128_in1k': 22_027_504,
        'dynamic-deit-s-rel-scaling_8xb128_in1k': 22_027_504,
        'dynamic-deit-s-rel-scaling-relu_8xb128_in1k': 22_027_504,
        'dynamic-deit-s-rel-ln_8xb128_in1k': 22_032_232,
        'dynamic-deit-s-rel-gap-ln_8xb128_in1k': 22_031_824,
        'dynamic-deit-s-rel-gap-ln-relu_8xb128_in1k': 22_031_824,
        'dynamic-deit-s-depthwise_8xb128_in1k': 20_276_584,
        'dynamic-deit-s-rel-depthwise_8xb128_in1k': 20_253_424,
        'dynamic-deit-b_8xb128_in1k': 86_567_656,
        'dynamic-deit-b-rel_8xb128_in1k': 86_521_336,
        'dynamic-deit-b-rel-depthwise_8xb128_in1k': 79_434_232,
        'dynamic-swin-t_8xb128_in1k': 28_288_354,
        'dynamic-swin-t-none_8xb128_in1k': 28_288_354,
        'dynamic-swin-t-scaling_8xb128_in1k': 28_288_354,
        'dynamic-swin-t-scaling-relu_8xb128_in1k': 28_288_354,
        'dynamic-swin-t-ln_8xb128_in1k': 28_289_530,
        'dynamic-swin-t-ln-relu_8xb128_in1k': 28_289_530,
        'dynamic-swin-t-abs_8xb128_in1k': 28_566_088,
        'dynamic-swin-t-abs-scaling_8xb128_in1k': 28_566_088,
        'dynamic-swin-t-abs-scaling-relu_8xb128_in1k': 28_566_088,
        'dynamic-swin-t-depthwise-per-channel_8xb128_in1k': 26_850_376,
        'dynamic-swin-t-depthwise_8xb128_in1k': 26_127_394,
        'dynamic-swin-b_8xb128_in1k': 87_768_224,
        'dynamic-swin-b-scaling_8xb128_in1k': 87_768_224,
        'dynamic-swin-b-depthwise_8xb128_in1k': 80_776_608,
        'retinanet_dynamic-swin-t-depthwise_fpn_8xb2-1x_coco': 36_297_646,
        'dynamic-swin-t-depthwise_upernet_8xb2-160k_ade20k-512x512': 57_780_902,
    },
    recipes={
        'dynamic-deit-s_8xb128_in1k': classifier('deit-small', 0.1, averaged=True),
        'dynamic-deit-b_8xb128_in1k': classifier('deit-base', 0.1, averaged=True),
        'dynamic-swin-t_8xb128_in1k': classifier('tiny', 0.2, averaged=False),
        'dynamic-swin-b_8xb128_in1k': classifier('base', 0.5, averaged=False),
        'retinanet_dynamic-swin-t-depthwise_fpn_8xb2-1x_coco': Recipe(
            optimizer=adamw(1e-4, 1e-4),
            batch=16,
            length=dict(max_epochs=12),
            course=coco(12, (8, 11), 1e-4),
            arch='tiny',
            drop_path_rate=0.2,
            undecayed=TABLE,
        ),
        'dynamic-swin-t-depthwise_upernet_8xb2-160k_ade20k-512x512': Recipe(
            optimizer=adamw(6e-5, 0.01),
            batch=16,
            length=dict(max_iters=160_000),
            course=upernet(),
            arch='tiny',
            drop_path_rate=0.3,
            norms_undecayed=True,
            undecayed=TABLE,
        ),
    },
    variants=(
        {'activation'},
        {'activation', 'mask_by_einsum'},
        {'position'},
        {'activation', 'position'},
        {'activation', 'position', 'with_cls_token', 'out_type'},
        {'activation', 'kernel'},
        {'activation', 'kernel', 'position'},
        {'activation', 'kernel', 'rel_per_channel'},
    ),
    nano={'DynamicViT': 214_848, 'DynamicSwin': 574_206},
    norms={
        'DynamicViT': {'backbone.layers.3.ln2.bias', 'backbone.ln1.weight'},
        'DynamicSwin': {'backbone.norm3.weight', 'backbone.stages.3.blocks.1.norm2.bias'},
    },
    with_mini_config={'dynamic-deit-s_8xb128_in1k', 'dynamic-swin-t_8xb128_in1k'},
    # Swin's last maps are smaller than a window below 224 pixels, and affine layer norms of maps
    # hold as many numbers as there are keys.
    full_size={
        *(f'dynamic-deit-s-rel-{name}_8xb128_in1k' for name in ('ln', 'gap-ln', 'gap-ln-relu')),
        *(f'dynamic-swin-t-{name}_8xb128_in1k' for name in SWIN),
        'dynamic-swin-t_8xb128_in1k',
        *(f'dynamic-swin-t-abs{name}_8xb128_in1k' for name in ('', '-scaling', '-scaling-relu')),
    },
    deeper={
        'dynamic-swin-b_8xb128_in1k',
        'dynamic-swin-b-scaling_8xb128_in1k',
        'dynamic-swin-b-depthwise_8xb128_in1k',
    },
)
