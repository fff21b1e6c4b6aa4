# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Networks as files of torch.export and of TorchScript, for any batch and any sides."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..ops import dwconv_backend
from .networks import Network, check_supported

SUFFIXES = {'.pt2': 'torch.export', '.pt': 'TorchScript'}


def export(network: Network, out: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a network in the format that the file's name says.

    Args:
        network (Network): The network, in evaluation mode.
        out (str | Path): The file, .pt2 for torch.export or .pt for
            TorchScript.
        metadata (Mapping, optional): What JSON can express, to store in the
            file as ``metadata.json``. Defaults to None.

    Raises:
        ValueError: If the format cannot express the network.
    """
    suffix = Path(out).suffix
    check_supported(network, SUFFIXES[suffix])
    inputs = network.example()
    files = {'metadata.json': json.dumps(dict(metadata or {}))}
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with torch.no_grad(), dwconv_backend('reference'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if suffix == '.pt':
            torch.jit.save(torch.jit.trace(network, inputs), str(out), _extra_files=files)
            return
        dynamic = torch.export.Dim.DYNAMIC
        shapes = ({0: dynamic, 2: dynamic, 3: dynamic},)
        program = torch.export.export(network, inputs, dynamic_shapes=shapes)
        torch.export.save(program, str(out), extra_files=files)


def load(path: str | Path) -> Callable[[Tensor], Sequence[Tensor]]:
    """Load a file of :func:`export`.

    Args:
        path (str | Path): The file.

    Returns:
        Callable: From images to a tuple of outputs. It raises a ValueError for
        sides that are too small for a file of torch.export.
    """
    if Path(path).suffix == '.pt':
        module = torch.jit.load(str(path))
    else:
        module = torch.export.load(str(path)).module()

    def run(images: Tensor) -> tuple[Tensor, ...]:
        try:
            with torch.no_grad():
                outputs = module(images)
        except AssertionError as error:  # torch checks for which sides the graph holds
            height, width = images.shape[2:]
            raise ValueError(
                f'a file of torch.export does not take images of {height}x{width} pixels: give '
                'sides of at least 35, or 129 for a RetinaNet, or export as .pt or ONNX.'
            ) from error
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)

    return run
