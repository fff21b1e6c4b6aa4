# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'dmformer-nano_sem-fpn_camvid.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint=None)))
