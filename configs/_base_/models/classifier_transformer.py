# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# The linear layer begins as those of DeiT, PVT and Swin do, and as mmpretrain's configs keep it.
_base_ = 'classifier.py'

model = dict(head=dict(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02)))
