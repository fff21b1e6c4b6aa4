# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
# With a longer warm-up and clipped gradients, as Swin is trained.
_base_ = 'adamw_300e_in1k.py'

warmup_epochs = 20

optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
param_scheduler = _base_.param_scheduler
param_scheduler[0].update(end=warmup_epochs)
param_scheduler[1].update(T_max=_base_.max_epochs - warmup_epochs, begin=warmup_epochs)
