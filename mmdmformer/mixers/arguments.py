# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checks of the arguments of token mixers."""

from collections.abc import Sequence

from ..registry import did_you_mean


def count_heads(channels: int, head_dim: int) -> int:
    """Divide channels among heads of a given width.

    Args:
        channels (int): Number of channels.
        head_dim (int): Channels of each head.

    Returns:
        int: Number of heads.

    Raises:
        ValueError: If the width does not divide the channels.

    Examples:
        >>> count_heads(320, 32)
        10
        >>> count_heads(80, 32)
        Traceback (most recent call last):
        ValueError: head_dim=32 does not divide 80 channels: choose one of 1, 2, 4, 5, 8, 10, 16, \
20, 40, 80.
    """
    if head_dim < 1 or channels % head_dim:
        raise ValueError(
            f'head_dim={head_dim} does not divide {channels} channels: choose one of '
            f'{_list(_divisors(channels))}.'
        )
    return channels // head_dim


def check_heads(channels: int, num_heads: int) -> None:
    """Raise a ValueError if a number of channels cannot be divided among heads."""
    if num_heads < 1 or channels % num_heads:
        raise ValueError(
            f'num_heads={num_heads} does not divide {channels} channels: choose one of '
            f'{_list(n for n in _divisors(channels) if n <= 64)}.'
        )


def check_odd(name: str, size: int) -> None:
    """Raise a ValueError if a kernel or window has no center."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f'{name}={size} must be odd and positive, such as 3 or 7.')


def check_positive(name: str, value: int) -> None:
    """Raise a ValueError if a number is below 1."""
    if value < 1:
        raise ValueError(f'{name}={value} must be a positive integer.')


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise a ValueError if a word is none of those that are known."""
    if value not in choices:
        raise ValueError(f'{name}={value!r} is unknown: {did_you_mean(value, choices)}')


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _list(values) -> str:
    return ', '.join(map(str, values))
