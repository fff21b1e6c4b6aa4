# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Token mixers and feature maps for tests."""

import inspect

import pytest
import torch
from torch import nn

from mmdmformer import TOKEN_MIXERS


def build(cfg, channels=16):
    if cfg['type'] == 'LKA':
        pytest.importorskip('mmpretrain')
    torch.manual_seed(0)
    if 'head_dim' in inspect.signature(TOKEN_MIXERS.get(cfg['type'])).parameters:
        cfg = {'head_dim': channels // 2, **cfg}
    mixer = TOKEN_MIXERS.build(cfg, channels=channels)
    for name, parameter in mixer.named_parameters():
        if 'bias' in name or 'norm' in name:  # nothing vanishes, and nothing is alike
            nn.init.uniform_(parameter, 0.5, 1.5)
    for module in mixer.modules():
        randomize_statistics(module)
    return mixer


def randomize_statistics(module):
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        nn.init.uniform_(module.running_mean, -0.5, 0.5)
        nn.init.uniform_(module.running_var, 0.5, 2)


def maps(*size, channels=16, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, *size, generator=generator, dtype=torch.double).to(dtype)
