# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: the three depthwise branches are not dilated.
_base_ = 'retinanet_dmformer-s_fpn_8xb2-1x_coco.py'

model = dict(backbone=dict(mixer=dict(dilations=(1, 1, 1))))
