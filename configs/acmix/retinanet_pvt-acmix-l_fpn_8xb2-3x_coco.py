# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'retinanet_pvt-acmix-t_fpn_8xb2-3x_coco.py'

model = dict(backbone=dict(arch='large'))
