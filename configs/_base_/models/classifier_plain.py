# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# Without Mixup and CutMix.
_base_ = 'classifier.py'

model = dict(train_cfg=None)
