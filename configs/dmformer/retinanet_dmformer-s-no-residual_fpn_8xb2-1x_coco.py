# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: the token mixer does not add its input.
_base_ = 'retinanet_dmformer-s_fpn_8xb2-1x_coco.py'

model = dict(backbone=dict(mixer=dict(residual=False)))
