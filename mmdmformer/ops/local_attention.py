# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Attention of every position to the window around it, without copies for each position."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Side of the tiles of queries. With windows of 7, tiles of 8 copy each key 3 times, not 49, and a
# quarter of the logits is used.
TILE = 8


def pad_by_reflection(x: Tensor, width: int) -> Tensor:
    """Pad a map by reflection, or by its border where it is too small to be reflected.

    Args:
        x (Tensor): Map of shape (B, C, H, W).
        width (int): Pixels to add at each side.

    Returns:
        Tensor: Map of shape (B, C, H + 2 width, W + 2 width).

    Examples:
        >>> pad_by_reflection(torch.arange(3.0).view(1, 1, 1, 3), 1)[0, 0]
        tensor([[0., 0., 1., 2., 2.],
                [0., 0., 1., 2., 2.],
                [0., 0., 1., 2., 2.]])
    """
    if torch.compiler.is_compiling():
        # torch 2.11 predicts contiguous maps, which on CPUs its operator gives for such alone.
        x = x.contiguous()
    mode = 'reflect' if min(x.shape[2:]) > width else 'replicate'
    return F.pad(x, (width,) * 4, mode=mode)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention.

    Args:
        q (Tensor): Queries of shape (..., L, d).
        k (Tensor): Keys of shape (..., S, d).
        v (Tensor): Values of shape (..., S, d).
        mask (Tensor, optional): Of shape (L, S), True where a query sees a
            key. Defaults to None.

    Returns:
        Tensor: Output of shape (..., L, d).
    """
    if not torch.jit.is_tracing():
        return F.scaled_dot_product_attention(q, k, v, mask)
    # In a traced graph, counters of multiply-adds do not know the fused operator.
    logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, float('-inf'))
    return logits.softmax(-1) @ v


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, window: int, stride: int = 1
) -> Tensor:
    """Attention of each position to the ``window`` x ``window`` positions around it.

    Keys and values are padded by reflection. Equals
    :func:`window_attention_reference`, but works on tiles of neighboring
    queries, which share their keys.

    Args:
        q (Tensor): Queries of shape (B, C, H', W') at every ``stride``-th
            position: H' = ceil(H / stride), W' = ceil(W / stride).
        k (Tensor): Keys of shape (B, C, H, W). The channels are head-major.
        v (Tensor): Values of shape (B, C, H, W).
        num_heads (int): Number of heads.
        window (int): Odd side of the window.
        stride (int): Distance of neighboring queries. Defaults to 1.

    Returns:
        Tensor: Output of shape (B, C, H', W').

    Examples:
        >>> q, k = torch.rand(2, 1, 8, 5, 6)
        >>> constant = torch.full((1, 8, 5, 6), 2.5)
        >>> torch.allclose(window_attention(q, k, constant, 2, 3), constant)
        True
    """
    if torch.jit.is_tracing() or q.is_meta:
        # Tiles would be built into the graph for one size of map. On the meta device, where nothing
        # is computed, counters shall see the definition's multiply-adds.
        return window_attention_reference(q, k, v, num_heads, window, stride)
    height, width = q.shape[2:]
    tile = min(TILE, max(height, width))
    reach = (tile - 1) * stride + window  # side of the keys that a tile of queries sees
    rows, columns = -(-height // tile), -(-width // tile)
    k, v = (pad_by_reflection(x, window // 2) for x in (k, v))
    queries = _cut_tiles(q, rows, columns, tile, tile, num_heads)
    keys, values = (_cut_tiles(x, rows, columns, reach, tile * stride, num_heads) for x in (k, v))
    out = attend(queries, keys, values, _window_mask(tile, stride, window, q.device))
    out = out.view(-1, rows, columns, num_heads, tile, tile, q.shape[1] // num_heads)
    out = out.permute(0, 3, 6, 1, 4, 2, 5).reshape(*q.shape[:2], rows * tile, columns * tile)
    return out[:, :, :height, :width]


def _cut_tiles(x: Tensor, rows: int, columns: int, side: int, step: int, num_heads: int) -> Tensor:
    """Cut (B, C, H, W) into overlapping tiles, of shape (B rows columns, heads, side^2, d)."""
    # What is missing at the end belongs to queries that are cropped; a stride may leave keys over.
    below, right = ((n - 1) * step + side for n in (rows, columns))
    x = F.pad(x, (0, right - x.shape[3], 0, below - x.shape[2]))
    x = x.unflatten(1, (num_heads, -1)).unfold(3, side, step).unfold(4, side, step)
    return x.permute(0, 3, 4, 1, 5, 6, 2).flatten(4, 5).flatten(0, 2)


def _window_mask(tile: int, stride: int, window: int, device: torch.device) -> Tensor:
    """Which keys each query of a tile sees, of shape (tile^2, reach^2)."""
    first = torch.arange(tile, device=device)[:, None] * stride
    key = torch.arange((tile - 1) * stride + window, device=device)
    seen = (key >= first) & (key < first + window)
    return (seen[:, None, :, None] & seen[None, :, None, :]).flatten(2).flatten(0, 1)


def window_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, window: int, stride: int = 1
) -> Tensor:
    """The definition of :func:`window_attention`: it copies out each position's window.

    Args:
        q (Tensor): As for :func:`window_attention`.
        k (Tensor): As for :func:`window_attention`.
        v (Tensor): As for :func:`window_attention`.
        num_heads (int): Number of heads.
        window (int): Odd side of the window.
        stride (int): Distance of neighboring queries. Defaults to 1.

    Returns:
        Tensor: Output of shape (B, C, H', W').
    """
    queries = q.unflatten(1, (num_heads, -1)).flatten(3).permute(0, 3, 1, 2)  # B, H'W', heads, d
    keys, values = (
        F.unfold(pad_by_reflection(x, window // 2), window, stride=stride)
        .unflatten(1, (num_heads, -1, window * window))
        .permute(0, 4, 1, 3, 2)  # B, H'W', heads, window^2, d
        for x in (k, v)
    )
    out = queries.unsqueeze(-2) * queries.shape[-1] ** -0.5 @ keys.transpose(-2, -1)
    out = out.softmax(-1) @ values
    return out.squeeze(-2).permute(0, 2, 3, 1).reshape(q.shape)


def aggregate(weights: Tensor, values: Tensor, window: int) -> Tensor:
    """Sum the window around each position with weights of its own.

    The output channel c uses the weights of index c modulo G, as SAN does.
    Values are padded by reflection.

    Args:
        weights (Tensor): Weights of shape (B, G, window^2, H, W).
        values (Tensor): Values of shape (B, C, H, W), with C a multiple of G.
        window (int): Odd side of the window.

    Returns:
        Tensor: Output of shape (B, C, H, W).

    Examples:
        >>> aggregate(torch.full((1, 2, 9, 4, 4), 1 / 9), torch.ones(1, 4, 4, 4), 3).unique()
        tensor([1.])
    """
    if torch.jit.is_tracing() or weights.is_meta:  # as for window_attention
        return aggregate_reference(weights, values, window)
    groups = weights.shape[1]
    if torch.compiler.is_compiling():  # which fuses the product with the sum
        windows = cut_windows(values, window).unflatten(1, (-1, groups))
        weights = weights.unflatten(2, (window, window)).permute(0, 1, 4, 5, 2, 3)
        return (weights[:, None] * windows).sum((-2, -1)).flatten(1, 2)
    padded = pad_by_reflection(values, window // 2).unflatten(1, (-1, groups))
    return _Aggregate.apply(weights, padded.to(weights.dtype), window).flatten(1, 2)


def aggregate_reference(weights: Tensor, values: Tensor, window: int) -> Tensor:
    """The definition of :func:`aggregate`: it copies out each position's window.

    Args:
        weights (Tensor): As for :func:`aggregate`.
        values (Tensor): As for :func:`aggregate`.
        window (int): Odd side of the window.

    Returns:
        Tensor: Output of shape (B, C, H, W).
    """
    windows = F.unfold(pad_by_reflection(values, window // 2), window)
    windows = windows.unflatten(1, (-1, weights.shape[1], window**2))
    out = torch.einsum('bgtp,bcgtp->bcgp', weights.flatten(3), windows)
    return out.flatten(1, 2).unflatten(2, values.shape[2:])


def cut_windows(x: Tensor, window: int) -> Tensor:
    """View the window around each position of a map, padded by reflection.

    Args:
        x (Tensor): Map of shape (B, C, H, W).
        window (int): Odd side of the windows.

    Returns:
        Tensor: A view of shape (B, C, H, W, window, window).
    """
    return pad_by_reflection(x, window // 2).unfold(2, window, 1).unfold(3, window, 1)


def _taps(weights: Tensor, padded: Tensor, window: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the weights, (B, 1, G, H, W), and of the values, (B, C/G, G, H, W), of each tap."""
    height, width = weights.shape[-2:]
    for tap in range(window * window):
        y, x = divmod(tap, window)
        yield weights[:, None, :, tap], padded[..., y : y + height, x : x + width]


class _Aggregate(torch.autograd.Function):
    """Accumulate taps in place: autograd would make a map as large as the values for each one."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, padded: Tensor, window: int) -> Tensor:
        ctx.save_for_backward(weights, padded)
        ctx.window = window
        out = _accumulator(padded, *padded.shape[:3], *weights.shape[-2:])
        for weight, value in _taps(weights, padded, window):
            out.addcmul_(weight, value)
        return out.to(padded.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, padded = ctx.saved_tensors
        grad_weights, grad_padded = torch.empty_like(weights), _accumulator(padded, *padded.shape)
        taps = _taps(weights, padded, ctx.window)
        grad_taps = _taps(grad_weights, grad_padded, ctx.window)
        for (weight, value), (grad_weight, grad_value) in zip(taps, grad_taps, strict=True):
            grad_weight.copy_((grad * value).sum(1, keepdim=True))
            grad_value.addcmul_(grad, weight)
        return grad_weights, grad_padded.to(padded.dtype), None


def _accumulator(like: Tensor, *shape: int) -> Tensor:
    """Zeros of at least single precision: half precision would lose what it adds up."""
    return like.new_zeros(shape, dtype=torch.promote_types(like.dtype, torch.float32))
