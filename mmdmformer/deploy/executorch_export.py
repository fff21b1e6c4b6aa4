# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Networks as ExecuTorch's files for CPUs, by XNNPACK, for one picture at a time."""

import copy
import importlib.resources
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..mixers.dma import ChannelGate
from ..ops import dwconv_backend
from .metadata import one_at_a_time
from .networks import Network, check_supported
from .packages import need

LARGEST = 1344  # pixels: the papers' 1333, padded. ExecuTorch plans the memory for it.
SMALLEST = 64
PRECISION = 'f32'  # in which a file is written and compared
_MAX_TAPS = 25  # of XNNPACK's depthwise kernels; with more it takes 25 times as long


def export(network: Network, out: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a network as ExecuTorch's file, and its metadata as JSON beside it.

    Args:
        network (Network): The network, in evaluation mode.
        out (str | Path): The file, .pte. Metadata (.json) go beside it, with the operators that
            XNNPACK does not run (``not_delegated``).
        metadata (Mapping, optional): What JSON can express. Defaults to None.

    Raises:
        ImportError: If a package is missing.
        ValueError: If ExecuTorch cannot express the network.
    """
    check_supported(network, 'ExecuTorch', pads=False)
    program = lower(delegable(copy.deepcopy(network)), network.example()[0][:1])
    left = not_delegated(program)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write(program, out)
    about = one_at_a_time(metadata or {}, PRECISION) | dict(not_delegated=left)
    out.with_suffix('.json').write_text(json.dumps(about, indent=1))


def lower(module: nn.Module, images: Tensor) -> Any:
    """Hand to XNNPACK what it takes of a network.

    Args:
        module (nn.Module): The network, in evaluation mode.
        images (Tensor): An example of its input, of shape (1, C, H, W).

    Returns:
        executorch.exir.EdgeProgramManager: For one image with sides of :data:`SMALLEST` to
        :data:`LARGEST` pixels.
    """
    need('executorch')
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    # Its own compiler, which it looks for on the search path alone.
    flatc = importlib.resources.files('executorch.data.bin') / 'flatc'
    os.environ.setdefault('FLATC_EXECUTABLE', str(flatc))
    side = torch.export.Dim.DYNAMIC(min=SMALLEST, max=LARGEST)
    with torch.no_grad(), dwconv_backend('reference'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        program = torch.export.export(module, (images,), dynamic_shapes=({2: side, 3: side},))
        return to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])


def write(program: Any, out: Path) -> None:
    """Write a program, which changes it.

    Args:
        program (executorch.exir.EdgeProgramManager): Of :func:`lower`.
        out (Path): The file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        out.write_bytes(program.to_executorch().buffer)


def not_delegated(program: Any) -> dict[str, int]:
    """Count the operators that XNNPACK does not run.

    Args:
        program (executorch.exir.EdgeProgramManager): Of :func:`lower`.

    Returns:
        dict[str, int]: How many of each, by their names in torch.
    """
    nodes = program.exported_program().graph.nodes
    names = [str(node.target) for node in nodes if node.op == 'call_function']
    found = [re.findall(r'EdgeOpOverload: ([\w.]+)\.\w+>', name) for name in names]
    return dict(sorted(Counter(name for each in found for name in each).items()))


def load(path: str | Path) -> Callable[[Tensor], Sequence[Tensor]]:
    """Load a file of :func:`export`.

    Args:
        path (str | Path): The file.

    Returns:
        Callable: From images to the outputs, one image after the other. It raises a ValueError
        for sides that the file does not take.

    Raises:
        ImportError: If a package is missing.
    """
    need('executorch')
    from executorch.runtime import Runtime, Verification

    program = Runtime.get().load_program(Path(path), verification=Verification.Minimal)

    def run(images: Tensor) -> list[Tensor]:
        height, width = images.shape[2:]
        if not SMALLEST <= min(height, width) <= max(height, width) <= LARGEST:
            raise ValueError(
                f'a .pte file does not take images of {height}x{width} pixels: give sides of '
                f'{SMALLEST} to {LARGEST}.'
            )
        method = program.load_method('forward')  # loaded once; it lives as long as the program
        # The next image's outputs take the place of this one's.
        each = [[t.clone() for t in method.execute([image[None]])] for image in images.contiguous()]
        return [torch.cat(outputs) for outputs in zip(*each, strict=True)]

    return run


def delegable(module: nn.Module) -> nn.Module:
    """Express in place what XNNPACK does not take, or takes slowly, as what it takes.

    Args:
        module (nn.Module): The module.

    Returns:
        nn.Module: The same module; it computes the same.
    """
    for name, child in module.named_children():
        if isinstance(child, ChannelGate):
            setattr(module, name, _ConvolutionalGate(child))
        elif isinstance(child, nn.Conv2d) and NarrowConvolutions.fits(child):
            setattr(module, name, NarrowConvolutions(child))
        else:
            delegable(child)
    return module


class NarrowConvolutions(nn.Module):
    """A large depthwise convolution as a sum of some with three columns and larger dilations.

    With ``k = 2 r + 1`` columns of dilation ``d``, the ``j``-th takes the columns at ``-j d`` and
    ``j d`` beside the middle one, which the first alone keeps.

    Args:
        conv (nn.Conv2d): A convolution for which :meth:`fits` is true.

    Examples:
        >>> conv = nn.Conv2d(4, 4, 7, padding=9, dilation=3, groups=4)
        >>> x = torch.rand(1, 4, 20, 30)
        >>> torch.allclose(NarrowConvolutions(conv)(x), conv(x), atol=1e-6)
        True
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        (rows, columns), (step_down, step) = conv.kernel_size, conv.dilation
        padding, middle = int(conv.padding[0]), columns // 2
        self.parts = nn.ModuleList()
        for j in range(1, middle + 1):
            part = nn.Conv2d(
                conv.in_channels,
                conv.out_channels,
                (rows, 3),
                padding=(padding, j * step),
                dilation=(step_down, j * step),
                groups=conv.groups,
                bias=j == 1 and conv.bias is not None,
            )
            weight = conv.weight.detach()[..., [middle - j, middle, middle + j]]
            if j > 1:
                weight[..., 1] = 0
            elif conv.bias is not None:
                part.bias = nn.Parameter(conv.bias.detach().clone())
            part.weight = nn.Parameter(weight)
            self.parts.append(part)

    @staticmethod
    def fits(conv: nn.Conv2d) -> bool:
        """Whether a convolution is depthwise, too large for XNNPACK's kernels, and centered."""
        rows, columns = conv.kernel_size
        return (
            conv.groups == conv.in_channels == conv.out_channels > 1
            and rows * columns > _MAX_TAPS >= 3 * rows
            and columns % 2 == 1
            and conv.stride == (1, 1)
            and conv.padding[1] == columns // 2 * conv.dilation[1]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (B, C, H, W) to what the convolution gives."""
        first, *others = (part(x) for part in self.parts)
        for each in others:
            first = first + each
        return first


class _ConvolutionalGate(nn.Module):
    """A gate of channels without changes of shape."""

    def __init__(self, gate: ChannelGate) -> None:
        super().__init__()
        self.layers = nn.Sequential(*map(_pointwise, gate.fcs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.mean(dim=(-1, -2), keepdim=True))


def _pointwise(layer: nn.Module) -> nn.Module:
    """A linear layer as a pointwise convolution; any other layer as it is."""
    if not isinstance(layer, nn.Linear):
        return layer
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1, bias=layer.bias is not None)
    conv.weight = nn.Parameter(layer.weight.detach()[:, :, None, None])
    conv.bias = layer.bias
    return conv
