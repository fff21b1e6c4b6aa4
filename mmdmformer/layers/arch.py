# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import re
from collections.abc import Collection, Mapping, Sequence

from ..registry import did_you_mean


def parse_arch(
    arch: str | int | dict, zoo: Mapping[str, dict], keys: Collection[str] | None = None
) -> dict:
    """Find an architecture by its name, or check one that is given.

    Args:
        arch (str | int | dict): A key of ``zoo``, or a dict.
        zoo (Mapping[str, dict]): Architectures by their names.
        keys (Collection[str], optional): What the dict must give. Defaults to
            the keys of the zoo's entries.

    Returns:
        dict: The architecture.

    Raises:
        ValueError: If the name is unknown, or the dict has other keys or
            sequences of different lengths.

    Examples:
        >>> parse_arch(26, {'26': dict(depths=(1, 2, 4, 1))})
        {'depths': (1, 2, 4, 1)}
        >>> parse_arch(dict(depths=(2, 2)), {'26': dict(depths=(1, 2, 4, 1))})
        {'depths': (2, 2)}
    """
    if not isinstance(arch, Mapping):
        name = str(arch).lower()
        if name not in zoo:
            choice = re.sub(r'\.$', ', or give a dict.', did_you_mean(name, zoo))
            raise ValueError(f'arch={arch!r} is unknown: {choice if zoo else "give a dict."}')
        return zoo[name]
    keys = keys or next(iter(zoo.values())).keys()
    if set(arch) != set(keys):
        raise ValueError(f'arch={dict(arch)} must have exactly the keys {", ".join(sorted(keys))}.')
    lengths = {len(value) for value in arch.values() if isinstance(value, Sequence)}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(f'arch={dict(arch)} must give one number per stage in each sequence.')
    return dict(arch)
