# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'mask-rcnn_dmformer-nano_fpn_nuclei.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint=None)))
