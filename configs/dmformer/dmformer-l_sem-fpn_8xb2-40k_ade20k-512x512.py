# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ours: the paper has no segmentation results of L.
_base_ = 'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512.py'

model = dict(backbone=dict(arch='large'))
