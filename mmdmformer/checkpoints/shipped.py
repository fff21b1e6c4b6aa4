# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The weights in the package, by name, from any working directory."""

from pathlib import Path
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader

from .safetensors_file import SUFFIX, load_from_safetensors

SCHEME = 'mmdmformer://'
FOLDER = Path(__file__).parents[1] / 'weights'


def shipped_file(name: str) -> Path:
    """Find weights that come with the package.

    Args:
        name (str): Of the file, without suffix.

    Returns:
        Path: The file.

    Raises:
        FileNotFoundError: If there is none of that name.

    Examples:
        >>> shipped_file('dmformer-nano_cifar10').name
        'dmformer-nano_cifar10.safetensors'
    """
    files = {path.stem: path for path in FOLDER.glob(f'*{SUFFIX}')}
    if name not in files:
        raise FileNotFoundError(
            f'no weights named {name!r} come with the package: take one of '
            f'{", ".join(sorted(files))}, or the file of a checkpoint.'
        )
    return files[name]


@CheckpointLoader.register_scheme(SCHEME, force=True)
def load_from_mmdmformer(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read the weights of such a name as ``mmdmformer://dmformer-nano_cifar10``.

    With it every ``checkpoint=``, ``load_from=`` and mmengine's own
    ``CheckpointLoader`` take the name.

    Args:
        filename (str): The name after the scheme.
        map_location (str | torch.device, optional): Where to put the tensors.
            Defaults to the CPU.

    Returns:
        dict: ``meta`` and ``state_dict``.

    Raises:
        FileNotFoundError: If there are none of that name.
    """
    return load_from_safetensors(str(shipped_file(filename.removeprefix(SCHEME))), map_location)
