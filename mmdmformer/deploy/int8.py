# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Networks in int8, by the ranges of values that pictures show (static quantization).

Convolutions and linear layers compute in int8, everything else in floating point: sums and products
of maps have channels of very different ranges, which one scale cannot serve. Both tools quantize
them unless told otherwise, at a cost that docs/deployment.md shows.
"""

import io
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

from . import onnx_export, openvino_export
from .networks import Network
from .packages import need

LAYERS = {'Conv', 'Gemm', 'MatMul', 'Convolution', 'GroupConvolution'}


def quantize(
    network: Network,
    out: str | Path,
    pictures: Sequence[Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write a network as a file of ONNX or OpenVINO, with layers in int8.

    Args:
        network (Network): The network, in evaluation mode.
        out (str | Path): The file, .onnx or .xml.
        pictures (Sequence[Tensor]): To calibrate with, each of shape (B, C, H, W).
        metadata (Mapping, optional): Texts, or what JSON can express, to store
            in the file. Defaults to None.

    Returns:
        list[str]: Convolutions and linear layers that stay in floating point.

    Raises:
        ImportError: If a package is missing.
    """
    quantized, export = FORMATS[Path(out).suffix]
    model, floating = quantized(onnx_export.build_onnx(network), feeds(network, pictures))
    export(network, out, dict(metadata or {}, int8=True, floating_point=floating), model)
    return floating


def feeds(network: Network, pictures: Sequence[Tensor]) -> list[dict[str, np.ndarray]]:
    """Name what a network takes for each of some pictures."""
    values = ((images.numpy(), np.array([images.shape[2:]])) for images in pictures)
    return [dict(zip(network.input_names, each, strict=False)) for each in values]


def _by_onnxruntime(model: Any, inputs: list[dict[str, np.ndarray]]) -> tuple[Any, list[str]]:
    """Quantize all layers but depthwise convolutions.

    Values are unsigned, as onnxruntime's kernels for x86 want them, and weights have 7 bits:
    without VNNI these kernels add two products in 16 bits, where 8 would overflow. One scale serves
    all channels of a layer's output, which costs the most where channels never mix.
    """
    onnx, tool = need('onnx'), need('onnxruntime.quantization')
    _write_constants_out(model.graph)
    weights = {tensor.name for tensor in model.graph.initializer}
    left = [
        node.name
        for node in model.graph.node
        if node.op_type in LAYERS and (node.input[1] not in weights or _is_depthwise(node))
    ]
    # No advice to optimize the graph before, please.
    onnx.helper.set_model_props(model, {'onnx.quant.pre_process': 'onnxruntime.quant'})
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'int8.onnx'
        tool.quantize_static(
            model,
            path,
            SimpleNamespace(get_next=partial(next, iter(inputs), None)),
            op_types_to_quantize=['Conv', 'Gemm', 'MatMul', 'Relu'],  # Relu ends in a scale
            nodes_to_exclude=left,
            activation_type=tool.QuantType.QUInt8,
            per_channel=True,
            reduce_range=True,
        )
        model = onnx.load(path)
    # A bias that does not fit into int32 stays as it is, and its layer in floating point.
    numbers = {tensor.name for tensor in model.graph.initializer}
    layers = (node for node in model.graph.node if node.op_type in LAYERS)
    return model, [node.name for node in layers if numbers.intersection(node.input[1:])]


def _by_nncf(model: Any, inputs: list[dict[str, np.ndarray]]) -> tuple[Any, list[str]]:
    """Quantize all layers."""
    nncf, openvino = need('nncf'), need('openvino')
    # Core.read_model would leave the weights of depthwise convolutions behind a reshape, where
    # NNCF finds none, and these convolutions in floating point.
    model = openvino.convert_model(io.BytesIO(model.SerializeToString()))
    operators = model.get_ops()
    others = {op.get_type_name() for op in operators} - LAYERS - {'Constant', 'Parameter', 'Result'}
    # A product of two maps, as a pooling to any size is, has no weights.
    pairs = [op for op in operators if op.get_type_name() == 'MatMul' and not _is_constant(op)]
    names = [op.get_friendly_name() for op in pairs]
    nncf.set_log_level(logging.ERROR)
    model = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,  # activations unsigned or not, as they come
        subset_size=len(inputs),
        ignored_scope=nncf.IgnoredScope(names=names, types=sorted(others)),
    )
    layers = (op for op in model.get_ops() if op.get_type_name() in LAYERS)
    return model, [op.get_friendly_name() for op in layers if _is_constant(op)]


FORMATS = {
    '.onnx': (_by_onnxruntime, onnx_export.export),
    '.xml': (_by_nncf, openvino_export.export),
}


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
