# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import torch.nn as nn
from mmcv.cnn import build_activation_layer


class ConvFFN(nn.Sequential):
    """FFN with a depthwise 3x3 convolution between its two 1x1 convolutions.

    Args:
        channels (int): Number of input and output channels.
        hidden_channels (int): Number of hidden channels.
        act_cfg (dict): Config of the activation. Defaults to
            ``dict(type='GELU')``.

    Examples:
        >>> import torch
        >>> ConvFFN(8, 32)(torch.rand(2, 8, 4, 5)).shape
        torch.Size([2, 8, 4, 5])
    """

    def __init__(
        self, channels: int, hidden_channels: int, act_cfg: dict = dict(type='GELU')
    ) -> None:
        super().__init__(
            nn.Conv2d(channels, hidden_channels, 1),
            nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1, groups=hidden_channels),
            build_activation_layer(act_cfg),
            nn.Conv2d(hidden_channels, channels, 1),
        )
