# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""ACmix's configs, with the baselines that the toolboxes lack."""

from .courses import Course, coco, cosine, imagenet, semantic_fpn, upernet
from .family import Family, Recipe

RATES = r'.*\.rates\.(alpha|beta)'
PVT = r'.*(\.bias|\.cls_token|\.rates\.(alpha|beta))'
ABLATIONS = (
    *('attention', 'fixed-rates', 'learned-alpha', 'complementary'),  # table 6
    *('tensor-shift', 'fixed-kernels', 'random-kernels'),  # table 7
)
SWIN = r'.*(\.relative_position_bias_table|\.rates\.(alpha|beta))'


def sgd(lr: float) -> dict:
    return dict(type='SGD', lr=lr, momentum=0.9, weight_decay=1e-4)


def adamw(lr: float, weight_decay: float) -> dict:
    return dict(type='AdamW', lr=lr, betas=(0.9, 0.999), weight_decay=weight_decay)


def in1k_100e(arch: str, course: Course) -> Recipe:
    return Recipe(
        optimizer=sgd(0.1),
        batch=256,
        length=dict(max_epochs=100),
        course=course,
        arch=arch,
        drop_path_rate=None,
        undecayed=RATES,
        augmentation='plain',
    )


def in1k_pvt(arch: str, drop_path_rate: float, clip_grad: dict | None = None) -> Recipe:
    return Recipe(
        optimizer=adamw(1e-3, 0.05),
        batch=1024,
        length=dict(max_epochs=300),
        course=imagenet(300, 5, 1e-3, 1e-6, 1e-5),
        arch=arch,
        drop_path_rate=drop_path_rate,
        norms_undecayed=True,
        undecayed=PVT,
        clip_grad=clip_grad,
        repeated_augmentation=True,
        head_std=0.02,
    )


def retinanet_sgd(arch: str) -> Recipe:
    return Recipe(
        optimizer=sgd(0.01),
        batch=16,
        length=dict(max_epochs=12),
        course=coco(12, (8, 11), 0.01),
        arch=arch,
        drop_path_rate=None,
        undecayed=RATES,
    )


def retinanet_pvt(epochs: int, course: Course) -> Recipe:
    return Recipe(
        optimizer=adamw(1e-4, 1e-4),
        batch=16,
        length=dict(max_epochs=epochs),
        course=course,
        arch='tiny',
        drop_path_rate=0.1,
        undecayed=RATES,
        multi_scale=epochs == 36,
    )


COCO_3X = coco(36, (27, 33), 1e-4)
RCNN_SWIN = Recipe(
    optimizer=adamw(1e-4, 0.05),
    batch=16,
    length=dict(max_epochs=36),
    course=COCO_3X,
    arch='tiny',
    drop_path_rate=0.2,
    norms_undecayed=True,
    undecayed=SWIN,
    multi_scale=True,
)

FAMILY = Family(
    experiments={
        'resnet-acmix-{}_8xb32_in1k': ('26', '38', '50'),
        'resnet-{}_8xb32_in1k': ('26', '38'),
        'san-acmix-{}_8xb32_in1k': ('10', '15', '19'),
        'san-{}_8xb32_in1k': ('10', '15', '19'),
        'pvt-acmix-{}_8xb128_in1k': ('t', 's', 'l'),
        'swin-acmix-{}_8xb128_in1k': ('t', 's', *(f't-{name}' for name in ABLATIONS)),
        'conv-swin-{}_8xb128_in1k': ('t',),
        'retinanet_{}_fpn_8xb2-1x_coco': ('resnet-acmix-50', 'san-acmix-19', 'pvt-acmix-t'),
        'retinanet_{}_fpn_8xb2-3x_coco': ('pvt-acmix-t', 'pvt-acmix-s', 'pvt-acmix-l'),
        'mask-rcnn_{}_fpn_8xb2-3x_coco': ('swin-acmix-t',),
        'cascade-mask-rcnn_{}_fpn_8xb2-3x_coco': ('swin-acmix-t',),
        'pvt-acmix-{}_sem-fpn_8xb4-40k_ade20k-512x512': ('t', 's'),
        'swin-acmix-{}_upernet_8xb2-160k_ade20k-512x512': ('t', 's'),
    },
    parameters={
        # of the released operators, or following from their description
        'resnet-acmix-26_8xb32_in1k': 10_487_816,
        'resnet-acmix-38_8xb32_in1k': 14_410_896,
        'resnet-acmix-50_8xb32_in1k': 18_333_976,
        'resnet-26_8xb32_in1k': 13_696_552,
        'resnet-38_8xb32_in1k': 19_626_792,
        'san-acmix-10_8xb32_in1k': 11_994_612,
        'san-acmix-15_8xb32_in1k': 16_414_134,
        'san-acmix-19_8xb32_in1k': 20_829_278,
        'san-10_8xb32_in1k': 11_841_124,
        'san-15_8xb32_in1k': 16_181_310,
        'san-19_8xb32_in1k': 20_518_470,
        'pvt-acmix-t_8xb128_in1k': 13_396_128,
        'pvt-acmix-s_8xb128_in1k': 24_824_755,
        'swin-acmix-t_8xb128_in1k': 28_649_908,
        'swin-acmix-s_8xb128_in1k': 50_345_080,
        'conv-swin-t_8xb128_in1k': 39_034_504,
        'swin-acmix-t-attention_8xb128_in1k': 28_288_354,
        'swin-acmix-t-fixed-rates_8xb128_in1k': 28_649_908 - 2 * 12,
        'swin-acmix-t-learned-alpha_8xb128_in1k': 28_649_908 - 12,
        'swin-acmix-t-complementary_8xb128_in1k': 28_649_908 - 12,
        'swin-acmix-t-tensor-shift_8xb128_in1k': 28_292_212,
        'swin-acmix-t-fixed-kernels_8xb128_in1k': 28_292_212,
        'swin-acmix-t-random-kernels_8xb128_in1k': 28_649_908,
        # computed
        'pvt-acmix-l_8xb128_in1k': 62_297_329,
        'retinanet_pvt-acmix-s_fpn_8xb2-3x_coco': 34_559_679,
        'retinanet_pvt-acmix-l_fpn_8xb2-3x_coco': 72_032_253,
        'cascade-mask-rcnn_swin-acmix-t_fpn_8xb2-3x_coco': 85_991_358,
        'mask-rcnn_swin-acmix-t_fpn_8xb2-3x_coco': 48_156_156,
        'pvt-acmix-s_sem-fpn_8xb4-40k_ade20k-512x512': 28_576_353,
        'pvt-acmix-t_sem-fpn_8xb4-40k_ade20k-512x512': 17_147_726,
        'retinanet_pvt-acmix-t_fpn_8xb2-1x_coco': 23_131_052,
        'retinanet_pvt-acmix-t_fpn_8xb2-3x_coco': 23_131_052,
        'retinanet_resnet-acmix-50_fpn_8xb2-1x_coco': 30_745_636,
        'retinanet_san-acmix-19_fpn_8xb2-1x_coco': 33_240_938,
        'swin-acmix-s_upernet_8xb2-160k_ade20k-512x512': 81_998_588,
        'swin-acmix-t_upernet_8xb2-160k_ade20k-512x512': 60_303_416,
    },
    recipes={
        'resnet-acmix-50_8xb32_in1k': in1k_100e(
            '50', imagenet(100, 5, 0.1, 0.025, 0.0, epoch=5005, batch=256)
        ),
        'san-acmix-19_8xb32_in1k': in1k_100e('19', cosine(100, 0.1, 5005, 256)),
        'pvt-acmix-t_8xb128_in1k': in1k_pvt('tiny', 0.1),
        'pvt-acmix-l_8xb128_in1k': in1k_pvt('large', 0.3, dict(max_norm=1.0)),
        'swin-acmix-t_8xb128_in1k': Recipe(
            optimizer=adamw(1e-3, 0.05),
            batch=1024,
            length=dict(max_epochs=300),
            course=imagenet(300, 20, 1e-3, 1e-6, 1e-5),
            arch='tiny',
            drop_path_rate=0.2,
            norms_undecayed=True,
            undecayed=rf'.*\.bias|{SWIN}',
            clip_grad=dict(max_norm=5.0),
            head_std=0.02,
        ),
        'retinanet_resnet-acmix-50_fpn_8xb2-1x_coco': retinanet_sgd('50'),
        'retinanet_san-acmix-19_fpn_8xb2-1x_coco': retinanet_sgd('19'),
        'retinanet_pvt-acmix-t_fpn_8xb2-1x_coco': retinanet_pvt(12, coco(12, (8, 11), 1e-4)),
        'retinanet_pvt-acmix-t_fpn_8xb2-3x_coco': retinanet_pvt(36, COCO_3X),
        'mask-rcnn_swin-acmix-t_fpn_8xb2-3x_coco': RCNN_SWIN,
        'cascade-mask-rcnn_swin-acmix-t_fpn_8xb2-3x_coco': RCNN_SWIN,
        'pvt-acmix-t_sem-fpn_8xb4-40k_ade20k-512x512': Recipe(
            optimizer=adamw(2e-4, 1e-4),
            batch=32,
            length=dict(max_iters=40_000),
            course=semantic_fpn(batch=32),
            arch='tiny',
            drop_path_rate=0.1,
            undecayed=RATES,
        ),
        'swin-acmix-t_upernet_8xb2-160k_ade20k-512x512': Recipe(
            optimizer=adamw(6e-5, 0.01),
            batch=16,
            length=dict(max_iters=160_000),
            course=upernet(),
            arch='tiny',
            drop_path_rate=0.3,
            norms_undecayed=True,
            undecayed=SWIN,
        ),
    },
    variants=(
        {'arch'},
        {'type'},
        {'rates'},
        {'shift'},
        {'type', 'arch'},
        {'arch', 'drop_path_rate'},
    ),
    nano={
        'ResNetACmix': 396_604,
        'SANACmix': 154_000,
        'PVTACmix': 556_030,
        'retinanet_pvt-acmix-nano_fpn_mini-coco': 579_326,  # without class token, for 128 pixels
        'SwinACmix': 408_085,
    },
    norms={
        'ResNetACmix': {'backbone.bn1.weight', 'backbone.layer4.0.downsample.1.bias'},
        'BottleneckResNet': {'backbone.bn1.weight', 'backbone.layer4.0.downsample.1.bias'},
        'SANACmix': {'backbone.stem.1.weight', 'backbone.stages.3.norm.bias'},
        'SAN': {'backbone.stem.1.weight', 'backbone.stages.3.norm.bias'},
        'PVTACmix': {'backbone.layers.0.0.norm.weight', 'backbone.layers.2.1.1.norm1.bias'},
        'SwinACmix': {'backbone.patch_embed.norm.weight', 'backbone.norm3.bias'},
        'ConvSwin': {'backbone.patch_embed.norm.weight', 'backbone.norm3.bias'},
    },
    with_mini_config={
        'resnet-acmix-50_8xb32_in1k',
        'san-acmix-19_8xb32_in1k',
        'pvt-acmix-t_8xb128_in1k',
        'swin-acmix-t_8xb128_in1k',
        'retinanet_pvt-acmix-t_fpn_8xb2-1x_coco',
    },
    deeper={
        'resnet-acmix-26_8xb32_in1k',
        'resnet-acmix-38_8xb32_in1k',
        'resnet-26_8xb32_in1k',
        'san-acmix-10_8xb32_in1k',
        'san-acmix-15_8xb32_in1k',
        'san-10_8xb32_in1k',
        'san-15_8xb32_in1k',
        'pvt-acmix-s_8xb128_in1k',
        'pvt-acmix-l_8xb128_in1k',
        'retinanet_pvt-acmix-s_fpn_8xb2-3x_coco',
        'retinanet_pvt-acmix-l_fpn_8xb2-3x_coco',
        'pvt-acmix-s_sem-fpn_8xb4-40k_ade20k-512x512',
        'swin-acmix-s_8xb128_in1k',
        'swin-acmix-s_upernet_8xb2-160k_ade20k-512x512',
    },
)
