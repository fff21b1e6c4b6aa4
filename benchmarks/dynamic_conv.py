# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Self-attention computed as convolutions, some of whose kernels are made from the input.

The view is that of `Interpret Vision Transformers as ConvNets with Dynamic Convolutions
<https://arxiv.org/abs/2309.10713>`_: a static 1x1 convolution gives the queries, a dynamic one
with the keys as kernels the scores; an activation follows; a dynamic convolution with the values
as kernels mixes, and a static one ends. Everything here is written for reading and for tests, with
torch's own convolutions; :mod:`mmdmformer.mixers` has what networks use.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class Projections(NamedTuple):
    """Weights and biases of the static 1x1 convolutions around self-attention.

    Each is a pair of a weight of shape (C, C) and a bias of shape (C, ) or None. Depthwise
    self-attention has no value projection.
    """

    query: tuple[Tensor, Tensor | None]
    key: tuple[Tensor, Tensor | None]
    value: tuple[Tensor, Tensor | None] | None
    output: tuple[Tensor, Tensor | None]

    @classmethod
    def from_layers(cls, qkv: nn.Linear, output: nn.Linear) -> 'Projections':
        """Take the projections apart that attention layers keep in one.

        Args:
            qkv (nn.Linear): From C to 3 C channels (queries, keys, values), or to 2 C without
                values.
            output (nn.Linear): From C to C channels.

        Returns:
            Projections: The weights, not copied.
        """
        parts = qkv.out_features // output.in_features
        biases = [None] * parts if qkv.bias is None else qkv.bias.chunk(parts)
        query, key, *value = zip(qkv.weight.chunk(parts), biases, strict=True)
        return cls(query, key, value[0] if value else None, (output.weight, output.bias))


class Steps(NamedTuple):
    """What the convolutions of self-attention give, one after the other.

    With B images, C channels in h heads of d, N kernels in the bank, and positions S (H, W for an
    image, or a number of tokens).
    """

    query: Tensor  # (B, C, *S): static convolution
    bank: Tensor  # (B, h, N, d): the kernels of the first dynamic convolution
    scores: Tensor  # (B, h * N, *S): dynamic convolution, d -> N in each head
    activated: Tensor  # (B, h * N, *S)
    mixed: Tensor  # (B, C, *S): dynamic convolution, N -> d in each head
    output: Tensor  # (B, C, *S): static convolution


def static_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with learned 1x1 kernels.

    Args:
        x (Tensor): Input of shape (B, C_in, H, W) or (B, C_in, N).
        weight (Tensor): Kernels of shape (C_out, C_in).
        bias (Tensor, optional): Of shape (C_out, ). Defaults to None.

    Returns:
        Tensor: Output of shape (B, C_out, H, W) or (B, C_out, N).
    """
    return _convolution(x)(x, _with_size(weight, x), bias)


def dynamic_conv(x: Tensor, kernels: Tensor, padding: int = 0) -> Tensor:
    """Convolve each image with kernels of its own.

    It is one call of torch's convolution, in which each group of each image is a group.

    Args:
        x (Tensor): Input of shape (B, G * C_in, H, W) or (B, G * C_in, N), in G groups of channels.
        kernels (Tensor): Kernels of shape (B, G, C_out, C_in), or with a size of more than 1x1
            (B, G, C_out, C_in, k, k). Depthwise is C_in = C_out = 1.
        padding (int): Zeros around the input. Defaults to 0.

    Returns:
        Tensor: Output of shape (B, G * C_out, H, W) or (B, G * C_out, N).

    Examples:
        >>> import torch
        >>> x, kernels = torch.rand(2, 12, 5, 5), torch.rand(2, 3, 7, 4)
        >>> dynamic_conv(x, kernels).shape  # 3 groups, each from 4 to 7 channels
        torch.Size([2, 21, 5, 5])
    """
    batch, groups = kernels.shape[:2]
    weight = _with_size(kernels.flatten(0, 2), x)
    y = _convolution(x)(x.flatten(0, 1)[None], weight, padding=padding, groups=batch * groups)
    return y.unflatten(1, (batch, -1))[0]


def dynamic_conv_by_position(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve depthwise with a 1x1 kernel of each position's own.

    Args:
        x (Tensor): Input of shape ``(B, C, *S)``.
        kernels (Tensor): Kernels of shape ``(B, C, *S)``.

    Returns:
        Tensor: Output of shape ``(B, C, *S)``.
    """
    # a position is a group like a channel, and what is left of the image is one pixel
    pixels = dynamic_conv(x.flatten(1)[..., None], kernels.flatten(1)[..., None, None])
    return pixels.view_as(x)


def self_attention(
    x: Tensor,
    projections: Projections,
    num_heads: int,
    activation: Callable[[Tensor], Tensor],
    selection: tuple[Tensor, Tensor] | None = None,
) -> Steps:
    """Compute multi-head self-attention as static and dynamic 1x1 convolutions.

    Args:
        x (Tensor): Input of shape (B, C, H, W), or (B, C, N) for tokens that are no image, such as
            those with a class token.
        projections (Projections): The static convolutions.
        num_heads (int): Number of heads h.
        activation (Callable): Maps scores of shape ``(B, h, N, *S)`` to the same shape; N is the
            axis of kernels, over which softmax and layer norm act. Scales, position and masks are
            part of it: the bias of query i and key j lies at ``[:, :, j, i]``.
        selection (tuple[Tensor, Tensor], optional): A soft selection from the bank, of shape
            (kept, N), for keys and for values, as in Linformer. Defaults to None, all kernels.

    Returns:
        Steps: What each convolution gives; ``output`` is the attention's output.
    """
    query = static_conv(x, *projections.query)
    keys, values = (
        _bank(static_conv(x, *projection), num_heads)
        for projection in (projections.key, projections.value)
    )
    if selection is not None:
        keys, values = selection[0] @ keys, selection[1] @ values
    scores = dynamic_conv(query, keys)
    activated = activation(scores.unflatten(1, (num_heads, -1))).flatten(1, 2)
    mixed = dynamic_conv(activated, values.transpose(2, 3))
    return Steps(query, keys, scores, activated, mixed, static_conv(mixed, *projections.output))


def depthwise_self_attention(
    x: Tensor, projections: Projections, num_heads: int, weights: Tensor | None = None
) -> Tensor:
    """Compute depthwise self-attention (the paper's Equation 5) as convolutions.

    Args:
        x (Tensor): Input of shape ``(B, C, *S)``.
        projections (Projections): The static convolutions; ``value`` is not used.
        num_heads (int): Number of heads h.
        weights (Tensor, optional): Weight of key j in the kernel of position i at ``[..., i, j]``,
            of shape (h, N, N) or (B, h, N, N): B_ij plus one over the number of keys for those
            that position i sees, 0 for others. Defaults to None, the mean of all keys, which is
            one kernel an image.

    Returns:
        Tensor: Output of shape ``(B, C, *S)``.
    """
    query, key = static_conv(x, *projections.query), static_conv(x, *projections.key)
    if weights is None:
        mixed = dynamic_conv(query, key.flatten(2).mean(2)[..., None, None])
    else:
        kernels = weights @ _bank(key, num_heads)  # (B, h, N, d)
        mixed = dynamic_conv_by_position(query, kernels.transpose(2, 3).reshape(x.shape))
    return static_conv(mixed, *projections.output)


def _convolution(x: Tensor) -> Callable:
    if x.dim() not in (3, 4):
        raise ValueError(
            f'an input of shape {tuple(x.shape)} is neither (B, C, H, W) nor (B, C, N): give it '
            'as an image or as tokens.'
        )
    return F.conv2d if x.dim() == 4 else F.conv1d


def _with_size(kernels: Tensor, x: Tensor) -> Tensor:
    """Give 1x1 kernels the axes of size 1 that torch's convolutions want."""
    return kernels[(..., *[None] * (x.dim() - kernels.dim()))]


def _bank(features: Tensor, num_heads: int) -> Tensor:
    """From features (B, C, *S), one kernel of each position and head: (B, h, N, d)."""
    return features.flatten(2).unflatten(1, (num_heads, -1)).transpose(2, 3)
