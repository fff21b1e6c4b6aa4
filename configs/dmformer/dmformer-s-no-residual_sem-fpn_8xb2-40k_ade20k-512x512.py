# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: the token mixer does not add its input.
_base_ = 'dmformer-s_sem-fpn_8xb2-40k_ade20k-512x512.py'

model = dict(backbone=dict(mixer=dict(residual=False)))
