# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'retinanet_dmformer-nano_fpn_bccd.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint=None)))
