# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
_base_ = 'adamw_1x_coco.py'

max_epochs = 36
milestones = [27, 33]  # epochs

param_scheduler = _base_.param_scheduler
param_scheduler[1].update(milestones=milestones, end=max_epochs)
train_cfg = dict(max_epochs=max_epochs)
