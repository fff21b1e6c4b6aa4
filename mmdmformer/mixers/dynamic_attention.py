# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Self-attention as dynamic convolution: other activations, depthwise kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import TOKEN_MIXERS
from .arguments import check_choice, check_positive, count_heads
from .tokens import to_maps, to_tokens
from .windows import mix_in_windows

ACTIVATIONS = ('softmax', 'none', 'scaling', 'scaling_relu', 'ln', 'ln_relu')
KERNELS = ('standard', 'depthwise')
POSITIONS = ('none', 'relative')

# Above this number of tokens the relative positions' product goes through Fourier transforms, which
# on a CPU are slower for 24x24 tokens and faster for 28x28.
MAX_DENSE_TOKENS = 24 * 24


@TOKEN_MIXERS.register_module()
class DynamicAttention(nn.Module):
    r"""Self-attention as two dynamic convolutions, with other activations and kernels.

    With the scores S = Q K^T of a head and its relative positions B, a head's
    output is one of

    .. math::
        \mathrm{softmax}(S / \sqrt{d} + B) \, V, \quad (S + B) \, V, \quad (S / d + B) \, V, \quad
        \mathrm{ReLU}(S / d + B) \, V, \quad \mathrm{LN}(S / \sqrt{d} + B) \, V, \quad
        \mathrm{ReLU}(\mathrm{LN}(S / \sqrt{d} + B)) \, V

    for the activations ``softmax``, ``none``, ``scaling``, ``scaling_relu``,
    ``ln`` and ``ln_relu``, or, with depthwise kernels,

    .. math:: q_i \odot (\mathrm{mean}_j \, k_j + \sum_j B_{ij} k_j)

    All positions of the map are the bank of kernels, as in a plain vision
    transformer, or those of a window, as in Swin; see ``window``. The layer
    norm over keys has no scale and shift, as the number of keys follows the
    map; in windows that reach beyond the map, its statistics count the padding,
    as Swin's would. Otherwise padding takes no part.

    Source: `Interpret Vision Transformers as ConvNets with Dynamic
    Convolutions <https://arxiv.org/abs/2309.10713>`_, equations 3 to 5; what
    computes is :class:`~mmdmformer.mixers.DynamicTokenAttention`. With N keys
    (HW, or the square of the window), it costs HWC (4 C + 2 N) multiply-adds;
    HWC (4 C + 2 d + N) where ``none`` and ``scaling`` are rearranged, and
    HWC (3 C + N) with depthwise kernels; without positions the N of these
    two is away.

    Args:
        channels (int): Number C of input and output channels.
        head_dim (int): Channels d of each head. Defaults to 32.
        activation (str): One of the above. Defaults to 'softmax'.
        kernel (str): ``'standard'`` or ``'depthwise'``, which has no
            activation (``'none'``). Defaults to 'standard'.
        position (str): ``'relative'`` or ``'none'``. Defaults to 'relative'.
        window (int, optional): Side of the windows; None for the whole map.
            Defaults to None.
        grid_size (int): Side of the square map that the table of relative
            positions is for, if there are no windows; it is interpolated for
            others. Defaults to 14.

    Raises:
        ValueError: If ``head_dim`` does not divide the channels, or an argument
            is unknown or does not go with another.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import DynamicAttention
        >>> mixer = DynamicAttention(64, activation='scaling')
        >>> mixer(torch.rand(1, 64, 14, 19)).shape
        torch.Size([1, 64, 14, 19])
    """

    def __init__(
        self,
        channels: int,
        head_dim: int = 32,
        activation: str = 'softmax',
        kernel: str = 'standard',
        position: str = 'relative',
        window: int | None = None,
        grid_size: int = 14,
    ) -> None:
        super().__init__()
        self.window = window
        side = grid_size if window is None else window
        check_positive('grid_size' if window is None else 'window', side)
        self.attention = DynamicTokenAttention(
            channels,
            count_heads(channels, head_dim),
            (side, side),
            activation,
            kernel,
            position,
            ln_affine=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x (Tensor): Input of shape (B, C, H, W).

        Returns:
            Tensor: Output of shape (B, C, H, W).
        """
        if self.window is not None:
            return mix_in_windows(x, self.attention, self.window)
        tokens = self.attention(to_tokens(x), window_size=tuple(x.shape[2:]))
        return to_maps(tokens, x)


class DynamicTokenAttention(nn.Module):
    """Multi-head self-attention in a window, as two dynamic convolutions.

    Keys and values are banks of convolution kernels made from the tokens. With
    S = Q K^T of a head of d channels and B its relative positions, the head's
    output is

    - ``softmax``: softmax(S / sqrt(d) + B) V,
    - ``none``: (S + B) V,
    - ``scaling``: (S / d + B) V,
    - ``scaling_relu``: relu(S / d + B) V,
    - ``ln``: LN(S / sqrt(d) + B) V, normalized over the keys,
    - ``ln_relu``: relu(LN(S / sqrt(d) + B)) V.

    Without a non-linearity, (S / d + B) V = Q (K^T V) / d + B V, which is how
    ``none`` and ``scaling`` are computed where it is cheaper.

    With ``kernel='depthwise'`` there are no values, and token i gives
    q_i * (mean_j k_j + sum_j B_ij k_j), element by element.

    The window may be the whole grid of a plain vision transformer; tokens in
    front of the grid's (a class token) have no relative positions. Neither the
    depthwise nor the rearranged form ever holds an N x N tensor of a large
    grid.

    Source: `Interpret Vision Transformers as ConvNets with Dynamic
    Convolutions <https://arxiv.org/abs/2309.10713>`_, equations 3 to 5. The
    projections have the names of mmpretrain's attention modules.

    Args:
        embed_dims (int): Number of channels C.
        num_heads (int): Number of heads.
        window_size (tuple[int, int]): Height and width of the window, in
            tokens, that the table of relative positions is for.
        activation (str): One of the above. Defaults to 'softmax'.
        kernel (str): ``'standard'`` or ``'depthwise'``, which has no
            activation (``'none'``). Defaults to 'standard'.
        position (str): ``'relative'`` or ``'none'``. Defaults to 'relative'.
        qkv_bias (bool): Whether queries, keys and values have a bias.
            Defaults to True.
        qk_scale (float, optional): Factor of S in place of the above.
            Defaults to None.
        rel_on_values (bool): Whether B is added after the activation, not
            before. Defaults to False.
        rel_per_channel (bool): Whether each channel, not each head, has its
            own relative positions; for depthwise kernels. Defaults to False.
        ln_affine (bool): Whether ``ln`` and ``ln_relu`` learn a scale and a
            shift for each key, which fixes the number of keys.
            Defaults to True.
        mask_by_einsum (bool): Whether a mask is applied as an einsum, which
            counters of operations see, not as an element-wise product, which
            they do not; the values are the same. Defaults to False.
        num_extra_tokens (int): Tokens in front of the window's.
            Defaults to 0.

    Raises:
        ValueError: If an argument is unknown, or does not go with another.

    Examples:
        >>> import torch
        >>> from mmdmformer.mixers import DynamicTokenAttention
        >>> mixer = DynamicTokenAttention(64, 2, (7, 7), activation='scaling')
        >>> mixer(torch.rand(8, 49, 64)).shape
        torch.Size([8, 49, 64])
        >>> mixer(torch.rand(1, 140, 64), window_size=(10, 14)).shape
        torch.Size([1, 140, 64])
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window_size: tuple[int, int],
        activation: str = 'softmax',
        kernel: str = 'standard',
        position: str = 'relative',
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        rel_on_values: bool = False,
        rel_per_channel: bool = False,
        ln_affine: bool = True,
        mask_by_einsum: bool = False,
        num_extra_tokens: int = 0,
    ) -> None:
        super().__init__()
        check_choice('activation', activation, ACTIVATIONS)
        check_choice('kernel', kernel, KERNELS)
        check_choice('position', position, POSITIONS)
        if embed_dims % num_heads:
            raise ValueError(
                f'embed_dims={embed_dims} must be a multiple of num_heads={num_heads}.'
            )
        depthwise = kernel == 'depthwise'
        if depthwise and (activation != 'none' or qk_scale is not None):
            raise ValueError(
                f'activation={activation!r} and qk_scale={qk_scale} do not go with kernel='
                "'depthwise', which compares no query with a key: set activation='none' and leave "
                'qk_scale out.'
            )
        if rel_per_channel and not (depthwise and position == 'relative'):
            raise ValueError(
                "rel_per_channel=True needs kernel='depthwise' and position='relative', not "
                f'{kernel!r} and {position!r}.'
            )
        self.num_heads = num_heads
        height, width = window_size
        self.window_size = height, width
        self.activation = activation
        self.depthwise = depthwise
        self.rel_on_values = rel_on_values
        self.mask_by_einsum = mask_by_einsum
        self.num_extra_tokens = num_extra_tokens
        self.head_dims = embed_dims // num_heads
        self.scale = qk_scale if qk_scale is not None else self._default_scale()

        if position == 'relative':
            columns = embed_dims if rel_per_channel else num_heads
            table = torch.empty((2 * height - 1) * (2 * width - 1), columns)
            nn.init.trunc_normal_(table, std=0.02)
            self.relative_position_bias_table: nn.Parameter | None = nn.Parameter(table)
        else:
            self.relative_position_bias_table = None
        if depthwise:
            self.qk = nn.Linear(embed_dims, 2 * embed_dims, bias=qkv_bias)
        else:
            self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        normalizes = activation.startswith('ln')
        num_keys = height * width + num_extra_tokens
        self.map_norm = nn.LayerNorm(num_keys) if normalizes and ln_affine else None
        self.proj = nn.Linear(embed_dims, embed_dims)
        self._register_load_state_dict_pre_hook(self._adapt_weights)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, window_size: tuple[int, int] | None = None
    ) -> Tensor:
        """Mix the tokens of each window.

        Args:
            x (Tensor): Tokens of shape (B * num_windows, N, C); the windows of
                an image follow each other.
            mask (Tensor, optional): What separates the regions of a shifted
                window, of shape (num_windows, N, N): 0 within a region, and
                a large negative number elsewhere. Defaults to None.
            window_size (tuple[int, int], optional): Height and width of these
                windows, if they are not those of the table, which is then
                interpolated. Defaults to None.

        Returns:
            Tensor: Tokens of the shape of ``x``.

        Raises:
            ValueError: If the number of tokens does not fit.
        """
        size = self.window_size if window_size is None else window_size
        if not torch.jit.is_tracing():
            self._check_num_tokens(x.shape[1], size)
        if self.depthwise:
            q, k = self._split_heads(self.qk(x), 2)
            y = q * self._depthwise_kernel(k, mask, size)
        else:
            q, k, v = self._split_heads(self.qkv(x), 3)
            mix = self._mix_linear if self._is_linear_cheaper(x.shape[1], mask) else self._mix_dense
            y = mix(q, k, v, mask, size)
        return self.proj(y.transpose(1, 2).flatten(2))

    def relative_bias(self, window_size: tuple[int, int] | None = None) -> Tensor | None:
        """Build the matrix B of relative positions.

        Args:
            window_size (tuple[int, int], optional): Height h and width w of the
                window. Defaults to None, the one of the table.

        Returns:
            Tensor: Of shape (heads, h * w, h * w), or (heads, d, h * w, h * w)
            with ``rel_per_channel``; None without relative positions.
        """
        table = self.relative_position_bias_table
        if table is None:
            return None
        size = self.window_size if window_size is None else window_size
        return toeplitz_matrix(self._resize_table(table, size), size).squeeze(1)

    def _default_scale(self) -> float:
        if self.activation == 'none':
            return 1.0
        return 1 / self.head_dims if 'scaling' in self.activation else self.head_dims**-0.5

    def _check_num_tokens(self, num_tokens: int, size: tuple[int, int]) -> None:
        num_keys = size[0] * size[1] + self.num_extra_tokens
        if self.relative_position_bias_table is not None and num_tokens != num_keys:
            raise ValueError(
                f'{num_tokens} tokens are no window of {size[0]}x{size[1]} with '
                f'{self.num_extra_tokens} tokens in front: give the window_size of this input.'
            )
        if self.map_norm is not None and num_tokens != self.map_norm.normalized_shape[0]:
            raise ValueError(
                f'{num_tokens} tokens meet a scale and shift for '
                f'{self.map_norm.normalized_shape[0]}: set ln_affine=False for inputs of any size.'
            )

    def _split_heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        return x.unflatten(-1, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def _is_linear_cheaper(self, num_tokens: int, mask: Tensor | None) -> bool:
        # A mask multiplies the map, and so keeps it from being rearranged.
        if self.activation not in ('none', 'scaling') or mask is not None:
            return False
        relative = self.relative_position_bias_table is not None
        return num_tokens > self.head_dims * (2 if relative else 1)

    def _mix_linear(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        y, table = q @ ((k * self.scale).transpose(-2, -1) @ v), self.relative_position_bias_table
        return y if table is None else y + self._mix_relative(table, v, size)

    def _mix_relative(self, table: Tensor, v: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute B V for ``v`` of shape (B, heads, N, d), 0 for the tokens in front."""
        table = self._resize_table(table, size)
        in_window = v[..., self.num_extra_tokens :, :]
        # Some Fourier transforms refuse an empty batch, and ONNX has none for maps.
        is_large = in_window.shape[-2] > MAX_DENSE_TOKENS and in_window.shape[0] > 0
        if is_large and not _is_in_onnx_export():
            y = toeplitz_product(table, in_window, size)
        else:
            matrix = toeplitz_matrix(table, size).squeeze(1)
            y = torch.einsum(f'{_INDICES[matrix.ndim]},bhjc->bhic', matrix, in_window)
        return F.pad(y, (0, 0, self.num_extra_tokens, 0))

    def _mix_dense(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, size: tuple[int, int]
    ) -> Tensor:
        bias = self.relative_bias(size)
        if bias is not None:
            bias = F.pad(bias, (self.num_extra_tokens, 0) * 2)
        before, after = (None, bias) if self.rel_on_values else (bias, None)
        softmax = self.activation == 'softmax'
        # What counts operations traces the network, and does not see into the fused attention.
        if softmax and mask is None and after is None and not torch.jit.is_tracing():
            return F.scaled_dot_product_attention(q, k, v, before, scale=self.scale)
        scores = (q * self.scale) @ k.transpose(-2, -1)
        if before is not None:
            scores = scores + before
        if softmax and mask is not None:
            scores = _by_window(torch.add, scores, mask.to(scores.dtype))
        attention = self._activate(scores)
        if after is not None:
            attention = attention + after
        if mask is not None and not (softmax and after is None):
            multiply = _multiply_by_einsum if self.mask_by_einsum else torch.mul
            attention = _by_window(multiply, attention, _same_region(mask, attention))
        return attention @ v

    def _activate(self, scores: Tensor) -> Tensor:
        if self.activation == 'softmax':
            return scores.softmax(dim=-1)
        if self.map_norm is not None:
            scores = self.map_norm(scores)
        elif self.activation.startswith('ln'):
            scores = _normalize_keys(scores)
        return scores.relu() if self.activation.endswith('relu') else scores

    def _depthwise_kernel(self, k: Tensor, mask: Tensor | None, size: tuple[int, int]) -> Tensor:
        """Merge the keys, of shape (B, heads, N, d), to a kernel for each token."""
        if mask is None:
            mean, table = k.mean(dim=-2, keepdim=True), self.relative_position_bias_table
            return mean if table is None else mean + self._mix_relative(table, k, size)
        same_region = _same_region(mask, k)
        k = k.reshape(-1, mask.shape[0], *k.shape[1:])
        weights = same_region / same_region.sum(dim=-1, keepdim=True)
        kernel = torch.einsum('wij,bwhjc->bwhic', weights, k)
        bias = self.relative_bias(size)
        if bias is not None:
            equation = f'wij,{_INDICES[bias.ndim]},bwhjc->bwhic'
            kernel = kernel + torch.einsum(equation, same_region, bias, k)
        return kernel.flatten(0, 1)

    def _resize_table(self, table: Tensor, size: tuple[int, int]) -> Tensor:
        """Give the table as (heads, 1 or d, 2h - 1, 2w - 1)."""
        return resize_table(table.t(), self.window_size, size).unflatten(0, (self.num_heads, -1))

    def _adapt_weights(self, state_dict: dict, prefix: str, *args) -> None:
        """Take tables for a square window of another size, and mmpretrain's checkpoints."""
        state_dict.pop(f'{prefix}relative_position_index', None)
        name = f'{prefix}relative_position_bias_table'
        if self.relative_position_bias_table is None or name not in state_dict:
            return
        table, expected = state_dict[name], self.relative_position_bias_table
        side = (round(len(table) ** 0.5) + 1) // 2
        if len(table) != len(expected) and (2 * side - 1) ** 2 == len(table):
            resized = resize_table(table.t(), (side, side), self.window_size)
            state_dict[name] = resized.flatten(1).t()


# Indices of B by its number of dimensions: of each head, or of each channel of a head.
_INDICES = {3: 'hij', 4: 'hcij'}


def resize_table(
    table: Tensor, window_size: tuple[int, int], new_window_size: tuple[int, int]
) -> Tensor:
    """Interpolate a table of relative positions for another window.

    Args:
        table (Tensor): Values of all offsets, of shape
            (heads, (2h - 1) * (2w - 1)).
        window_size (tuple[int, int]): Height h and width w of its window.
        new_window_size (tuple[int, int]): Height h' and width w' of the other.

    Returns:
        Tensor: Of shape (heads, 2h' - 1, 2w' - 1).

    Examples:
        >>> resize_table(torch.rand(3, 13 * 13), (7, 7), (8, 12)).shape
        torch.Size([3, 15, 23])
    """
    sides = [2 * side - 1 for side in window_size]
    new_sides = [2 * side - 1 for side in new_window_size]
    table = table.unflatten(1, sides)
    if sides == new_sides and not torch.jit.is_tracing():  # a graph may meet other windows
        return table
    # Both have offset 0 in the middle, where it stays. Cubic interpolation knows no half floats.
    exact = table.to(torch.promote_types(table.dtype, torch.float32))
    resized = F.interpolate(exact[None], new_sides, mode='bicubic', align_corners=False)
    return resized[0].to(table.dtype)


def toeplitz_matrix(table: Tensor, window_size: tuple[int, int]) -> Tensor:
    """Lay out a table of relative positions as the matrix of all pairs of tokens.

    Args:
        table (Tensor): Values of all offsets, of shape (..., 2h - 1, 2w - 1).
        window_size (tuple[int, int]): Height h and width w.

    Returns:
        Tensor: Matrix of shape (..., h * w, h * w) whose element (i, j) is
        the table's at [y_i - y_j + h - 1, x_i - x_j + w - 1].

    Examples:
        >>> toeplitz_matrix(torch.tensor([[1.0, 2.0, 3.0]]), (1, 2))
        tensor([[2., 1.],
                [3., 2.]])
    """
    height, width = window_size
    if _is_in_onnx_export():  # whose unfold has one size
        return table.flatten(-2)[..., _relative_indices(window_size, table.device)]
    pairs = table.unfold(-2, height, 1).unfold(-2, width, 1)
    return pairs.flip((-2, -1)).flatten(-4, -3).flatten(-2)


def _relative_indices(window_size: tuple[int, int], device: torch.device) -> Tensor:
    """Where the offset of each pair of tokens lies in a table (2h - 1, 2w - 1), (h w, h w)."""
    y, x = (
        place[:, None] - place + side - 1
        for side in window_size
        for place in [torch.arange(side, device=device)]
    )
    indices = y[:, None, :, None] * (2 * window_size[1] - 1) + x[None, :, None, :]
    return indices.flatten(2).flatten(0, 1)


def toeplitz_product(table: Tensor, v: Tensor, window_size: tuple[int, int]) -> Tensor:
    """Multiply that matrix and the tokens, in O(N log N) and without the matrix.

    It is a depthwise convolution of the map of tokens with the table. With
    the table's sides as the period, a circular one reaches no token twice.

    Args:
        table (Tensor): Values of all offsets, of shape
            (heads, 1 or d, 2h - 1, 2w - 1).
        v (Tensor): Tokens of shape (B, heads, h * w, d).
        window_size (tuple[int, int]): Height h and width w.

    Returns:
        Tensor: Of the shape of ``v``.
    """
    height, width = window_size
    period = (2 * height - 1, 2 * width - 1)
    dtype = torch.promote_types(table.dtype, torch.float32)
    maps = v.transpose(-2, -1).unflatten(-1, (height, width)).to(dtype)
    kernel = torch.fft.ifftshift(table.to(dtype), dim=(-2, -1))
    spectrum = torch.fft.rfft2(maps, s=period) * torch.fft.rfft2(kernel)
    y = torch.fft.irfft2(spectrum, s=period)[..., :height, :width]
    return y.flatten(-2).transpose(-2, -1).to(v.dtype)


def _normalize_keys(scores: Tensor) -> Tensor:
    """Layer norm over the last axis without scale and shift."""
    if not _is_in_onnx_export():
        return F.layer_norm(scores, scores.shape[-1:])
    # ONNX's own has as many scales as keys.
    centered = scores - scores.mean(dim=-1, keepdim=True)
    return centered * (centered.square().mean(dim=-1, keepdim=True) + 1e-5).rsqrt()


def _is_in_onnx_export() -> bool:
    return torch.jit.is_tracing() and torch.onnx.is_in_onnx_export()


def _by_window(function, maps: Tensor, mask: Tensor) -> Tensor:
    """Apply to maps (B * num_windows, heads, N, N) and a mask (num_windows, N, N)."""
    by_window = maps.reshape(-1, mask.shape[0], *maps.shape[1:])
    return function(by_window, mask[:, None]).flatten(0, 1)


def _multiply_by_einsum(maps: Tensor, mask: Tensor) -> Tensor:
    return torch.einsum('wij,bwhij->bwhij', mask.squeeze(1), maps)


def _same_region(mask: Tensor, like: Tensor) -> Tensor:
    return (mask == 0).to(like.dtype)
