# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# The paper counts the mask of this network, and not that of Swin-T.
_base_ = 'dynamic-swin-b_8xb128_in1k.py'

model = dict(backbone=dict(activation='scaling', mask_by_einsum=True))
