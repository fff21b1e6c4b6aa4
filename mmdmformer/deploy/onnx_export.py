# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Networks as ONNX files, for any batch and any sides."""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoints import DurableLocalBackend
from ..ops import dwconv_backend
from .metadata import as_texts
from .networks import Network
from .packages import need

INPUT, SIZES = 'images', 'sizes'
OPSET = 17  # of ONNX 1.12, of 2022


def export(
    network: Network,
    out: str | Path,
    metadata: Mapping[str, Any] | None = None,
    model: Any = None,
) -> None:
    """Write a network as one ONNX file, of ONNX's own operators.

    Args:
        network (Network): The network, in evaluation mode.
        out (str | Path): The file.
        metadata (Mapping, optional): Texts, or what JSON can express, to store
            in the file. Defaults to None.
        model (onnx.ModelProto, optional): What was made of :func:`build_onnx`'s
            result. Defaults to that itself.

    Raises:
        ImportError: If a package is missing.
    """
    model = model or build_onnx(network)
    if SIZES in network.input_names:  # optional: pictures fill the batch
        no_limit = np.full((1, 2), np.iinfo(np.int64).max)
        model.graph.initializer.append(need('onnx').numpy_helper.from_array(no_limit, SIZES))
    need('onnx').helper.set_model_props(model, as_texts(metadata or {}))
    DurableLocalBackend().put(model.SerializeToString(), out)


def build_onnx(network: Network) -> Any:
    """Express a network in ONNX's own operators.

    Args:
        network (Network): The network, in evaluation mode.

    Returns:
        onnx.ModelProto: All inputs must be given.

    Raises:
        ImportError: If a package is missing.
    """
    onnx = need('onnx')
    buffer: Any = io.BytesIO()  # which the exporter without dynamo takes as well as a path
    # torch's own layers alone: no operator of oneDNN or of ours gets into the graph.
    with torch.no_grad(), dwconv_backend('reference'), _quietly(), _with_nms():
        torch.onnx.export(
            network,
            network.example(),
            buffer,
            dynamo=False,
            input_names=list(network.input_names),
            output_names=list(network.output_names),
            dynamic_axes={INPUT: {0: 'batch', 2: 'height', 3: 'width'}, SIZES: {0: 'pictures'}},
            opset_version=OPSET,
        )
    model = onnx.load_from_string(buffer.getvalue())
    for output in model.graph.output:
        # The exporter has written the example's sizes; only channels hold for all images.
        dimensions = output.type.tensor_type.shape.dim
        for i, dimension in enumerate(dimensions):
            if i != 1 or len(dimensions) == 3:
                dimension.Clear()
    return model


def load(path: str | Path, threads: int = 0) -> Callable[[Tensor], Sequence[Tensor]]:
    """Load an ONNX file into onnxruntime, on the CPU.

    Args:
        path (str | Path): The file.
        threads (int): Threads of an operator; 0 leaves it to onnxruntime.
            Defaults to 0.

    Returns:
        Callable: From images to the outputs.

    Raises:
        ImportError: If onnxruntime is missing.
    """
    onnxruntime = need('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # a warning says that sizes can be given
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(out) for out in session.run(None, {INPUT: images.numpy()})]

    return run


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's warnings that Python's numbers become constants.

    Where that matters, the comparison with PyTorch at other sizes fails.
    """
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        yield


@contextmanager
def _with_nms() -> Iterator[None]:
    """Let the exporter write ``batched_nms`` as ONNX's NonMaxSuppression."""
    from torch.onnx.symbolic_helper import _maybe_get_const

    from . import boxes  # noqa: F401  (registers the operator)

    def to_onnx(graph, corners, scores, iou_threshold, score_threshold, max_per_class):
        def constant(value):
            return graph.op('Constant', value_t=torch.tensor([value]))

        return graph.op(
            'NonMaxSuppression',
            corners,
            scores,
            constant(_maybe_get_const(max_per_class, 'i')),
            constant(_maybe_get_const(iou_threshold, 'f')),
            constant(_maybe_get_const(score_threshold, 'f')),
        )

    name = 'mmdmformer::batched_nms'
    torch.onnx.register_custom_op_symbolic(name, to_onnx, OPSET)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(name, OPSET)
