# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Networks as ncnn's files, for any sides and one picture at a time."""

import copy
import json
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..layers.pooling import AdaptiveAveragePool
from ..ops import dwconv_backend
from .metadata import one_at_a_time
from .networks import Network, Segmentor, check_supported
from .packages import need

PRECISION = 'f32'  # in which a file is written and compared


def export(network: Network, out: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a network as ncnn's two files, and its metadata as JSON beside them.

    Args:
        network (Network): The network, in evaluation mode. Of a segmentor the logits alone are
            written, as ncnn has no operator for the best class.
        out (str | Path): The file of the graph, .param. Weights (.bin) and metadata (.json) go
            beside it.
        metadata (Mapping, optional): What JSON can express. Defaults to None.

    Raises:
        ImportError: If a package is missing.
        ValueError: If ncnn cannot express the network.
    """
    need('ncnn')
    check_supported(network, 'ncnn', pads=False)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        graph = _convert(network, Path(folder))
        for suffix in ('.bin', '.param'):
            out.with_suffix(suffix).write_bytes(graph.with_suffix(suffix).read_bytes())
    about = one_at_a_time(metadata or {}, PRECISION)
    about.get('outputs', {}).pop('labels', None)
    out.with_suffix('.json').write_text(json.dumps(about, indent=1))


def load(path: str | Path, threads: int = 1) -> Callable[[Tensor], Sequence[Tensor]]:
    """Load a file of :func:`export`, on the CPU and in float32.

    Args:
        path (str | Path): The file.
        threads (int): Threads. Defaults to 1.

    Returns:
        Callable: From images to the outputs, one image after the other.

    Raises:
        ImportError: If a package is missing.
        ValueError: If ncnn does not take the file.
    """
    ncnn = need('ncnn')
    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in ('packed', 'storage', 'arithmetic'):
        setattr(net.opt, f'use_fp16_{name}', False)
    weights = Path(path).with_suffix('.bin')
    if net.load_param(str(path)) or net.load_model(str(weights)):
        raise ValueError('ncnn does not take the graph that pnnx has written: take another format.')

    def infer(image: np.ndarray) -> list[Tensor]:
        extractor = net.create_extractor()
        extractor.input('in0', ncnn.Mat(image).clone())
        # In the network's order, which is not that of the graph.
        names = [f'out{i}' for i in range(len(net.output_names()))]
        return [torch.from_numpy(np.array(extractor.extract(name)[1])) for name in names]

    def run(images: Tensor) -> list[Tensor]:
        each = [infer(image.numpy()) for image in images.contiguous()]
        return [torch.stack(outputs) for outputs in zip(*each, strict=True)]

    return run


def _convert(network: Network, folder: Path) -> Path:
    """Have pnnx write a network's files there, and check that nothing was left undone.

    It ends with 0 where it leaves operators that ncnn does not have.
    """
    example = network.example()[0][:1]
    larger = [*example.shape[:2], *(side + 64 for side in example.shape[2:])]
    traced, graph = folder / 'network.pt', folder / 'network.ncnn.param'
    module: nn.Module = _Logits(network) if isinstance(network, Segmentor) else network
    module = _with_adaptive_pooling(copy.deepcopy(module))
    with torch.no_grad(), dwconv_backend('reference'), _Products(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.trace(module, example).save(str(traced))
    # Two sizes tell it which numbers follow the sides.
    shapes = [f'inputshape={list(example.shape)}f32', f'inputshape2={larger}f32']
    command = [need('pnnx').EXEC_PATH, str(traced), *(s.replace(' ', '') for s in shapes), 'fp16=0']
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode or not graph.is_file():
        last = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
        raise ValueError(f'pnnx cannot convert the network ({"".join(last)}): take another format.')
    layers = {line.split()[0] for line in graph.read_text().splitlines()[2:]}
    # Names of torch's and pnnx's own operators have a dot or a colon, those of ncnn's layers none.
    if left := sorted(name for name in layers if '.' in name or ':' in name):
        raise ValueError(f'ncnn has no {left[0]}, which the network needs: take another format.')
    return graph


def _with_adaptive_pooling(module: nn.Module) -> nn.Module:
    """Give back torch's pooling, which ncnn has a layer for, in place."""
    for name, child in module.named_children():
        if isinstance(child, AdaptiveAveragePool):
            setattr(module, name, nn.AdaptiveAvgPool2d(child.size))
        else:
            _with_adaptive_pooling(child)
    return module


class _Logits(nn.Module):
    """A segmentor without the choice of the best class."""

    def __init__(self, network: Segmentor) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.logits(images)


class _Products(TorchFunctionMode):
    """Writes ``addcmul``, which ncnn has no layer for, as a product and a sum."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.addcmul and not kwargs:
            x, first, second = args
            return x + first * second
        return func(*args, **(kwargs or {}))
