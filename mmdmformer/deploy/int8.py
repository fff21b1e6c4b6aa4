# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Networks in int8, by the ranges of values that pictures show (static quantization).

Convolutions and linear layers compute in int8, everything else in floating point: sums and products
have channels of very different ranges, which one scale cannot serve. With them in int8 as well,
which is what both tools do alone, the trained segmentor lost more than half of its mIoU.
"""

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from . import onnx_export, openvino_export
from .networks import Network
from .packages import need

LAYERS = {'Conv', 'Gemm', 'MatMul', 'Convolution', 'GroupConvolution'}


def quantize_onnx(
    network: Network,
    out: str | Path,
    pictures: Sequence[Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write a network as an ONNX file with layers in int8.

    Values are unsigned, as onnxruntime's kernels for x86 want them, and weights have 7 bits:
    without VNNI these kernels add two products in 16 bits, where 8 would overflow. Depth-wise
    convolutions stay in floating point. One scale serves all channels of a layer's output here,
    which costs the most where channels never mix, and onnxruntime's int8 is no faster for them.

    Args:
        network (Network): The network, in evaluation mode.
        out (str | Path): The file.
        pictures (Sequence[Tensor]): To calibrate with, each of shape (B, C, H, W).
        metadata (Mapping, optional): Texts, or what JSON can express, to store
            in the file. Defaults to None.

    Returns:
        list[str]: Convolutions and linear layers that stay in floating point.

    Raises:
        ImportError: If a package is missing.
    """
    tool, model = need('onnxruntime.quantization'), onnx_export.build_onnx(network)
    _write_constants_out(model.graph)
    layers = [node for node in model.graph.node if node.op_type in LAYERS]
    weights = {tensor.name for tensor in model.graph.initializer}
    chosen = [n.name for n in layers if n.input[1] in weights and not _is_depthwise(n)]
    with TemporaryDirectory() as folder, _quietly():
        path = Path(folder) / 'int8.onnx'
        tool.quantize_static(
            model,
            path,
            _Feeds(network, pictures),
            op_types_to_quantize=['Conv', 'Gemm', 'MatMul', 'Relu'],  # Relu ends in a scale
            nodes_to_exclude=[node.name for node in layers if node.name not in chosen],
            activation_type=tool.QuantType.QUInt8,
            per_channel=True,
            reduce_range=True,
        )
        model = need('onnx').load(path)
    # A bias that does not fit into int32 stays as it is, and its layer in floating point.
    numbers = {tensor.name for tensor in model.graph.initializer}
    layers = (node for node in model.graph.node if node.op_type in LAYERS)
    floating = [node.name for node in layers if numbers.intersection(node.input[1:])]
    onnx_export.export(network, out, _about(metadata, floating), model)
    return floating


def quantize_openvino(
    network: Network,
    out: str | Path,
    pictures: Sequence[Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write a network as OpenVINO's two files with layers in int8, depth-wise ones included.

    Arguments and errors are those of :func:`quantize_onnx`.

    Returns:
        list[str]: Convolutions and linear layers that stay in floating point.
    """
    nncf, content = need('nncf'), onnx_export.build_onnx(network).SerializeToString()
    # Core.read_model would leave the weights of depth-wise convolutions behind a reshape, where
    # NNCF finds none, and these convolutions in floating point.
    model = need('openvino').convert_model(io.BytesIO(content))
    operators = model.get_ops()
    others = {op.get_type_name() for op in operators} - LAYERS
    others -= {'Constant', 'Parameter', 'Result'}
    # A product of two maps, as a pooling of any size is, has no weights.
    pairs = [op for op in operators if op.get_type_name() == 'MatMul' and not _is_constant(op)]
    with _quietly():
        model = nncf.quantize(
            model,
            nncf.Dataset([*_Feeds(network, pictures).feeds]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(pictures),
            ignored_scope=nncf.IgnoredScope(
                names=[op.get_friendly_name() for op in pairs], types=sorted(others)
            ),
        )
    layers = (op for op in model.get_ops() if op.get_type_name() in LAYERS)
    floating = [op.get_friendly_name() for op in layers if _is_constant(op)]
    openvino_export.export(network, out, _about(metadata, floating), model)
    return floating


class _Feeds:
    """Pictures, as onnxruntime asks for them one by one."""

    def __init__(self, network: Network, pictures: Sequence[Tensor]) -> None:
        inputs = ((x.numpy(), np.array([x.shape[2:]])) for x in pictures)
        self.feeds = (dict(zip(network.input_names, each, strict=False)) for each in inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _write_constants_out(graph: Any) -> None:
    """Give each layer constants of its own.

    The exporter writes equal ones, such as biases of zeros, once, and an Identity for each other
    place, for whose outputs onnxruntime leaves layers in floating point.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [*graph.node]:
        if node.op_type == 'Identity' and node.input[0] in constants:
            graph.initializer.add().CopyFrom(constants[node.input[0]])
            graph.initializer[-1].name = node.output[0]
            graph.node.remove(node)


def _is_depthwise(node: Any) -> bool:
    return any(each.name == 'group' and each.i > 1 for each in node.attribute)


def _is_constant(op: Any) -> bool:
    """Whether the weights are plain numbers, which those in int8 are not."""
    return op.input_value(1).get_node().get_type_name() == 'Constant'


def _about(metadata: Mapping[str, Any] | None, floating: list[str]) -> dict[str, Any]:
    return dict(metadata or {}, int8=True, floating_point=floating)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without advice that does not hold here, such as to optimize the graph before."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
