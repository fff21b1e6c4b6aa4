# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'dmformer-nano_cifar10.py'

max_epochs = 36
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(T_max=max_epochs - _base_.warmup_epochs, end=max_epochs)
train_cfg = dict(max_epochs=max_epochs)
