# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'retinanet_dmformer-s_fpn_8xb2-1x_coco.py'

model = dict(backbone=dict(arch='large'))
