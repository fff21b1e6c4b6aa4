# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Ablation: the token mixer does not add its input.
_base_ = 'dmformer-s_8xb128_in1k.py'

model = dict(backbone=dict(mixer=dict(residual=False)))
