# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: one depthwise branch in place of three.
_base_ = 'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512.py'

model = dict(backbone=dict(mixer=dict(kernel_sizes=(7,), dilations=(3,))))
