# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: one depthwise branch in place of three.
_base_ = 'retinanet_dmformer-s_fpn_8xb2-1x_coco.py'

model = dict(backbone=dict(mixer=dict(kernel_sizes=(7,), dilations=(3,))))
