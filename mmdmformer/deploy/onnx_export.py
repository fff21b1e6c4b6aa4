# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Networks as ONNX files, for any batch and any sides."""

import io
import json
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
from .networks import Network

INPUT, SIZES = 'images', 'sizes'
OPSET = 17  # of ONNX 1.12, of 2022
_MISSING = 'pip install -r requirements/optional.txt, or the extra mmdmformer[optional].'


def check_installed() -> None:
    """Raise an ImportError, with the cure, if a package that export needs is missing."""
    for package in ('onnx', 'onnxruntime'):
        try:
            __import__(package)
        except ImportError as error:
            raise ImportError(f'{package} is needed and not installed: {_MISSING}') from error


def export(network: Network, out: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a network as one ONNX file, of ONNX's own operators.

    Args:
        network (Network): The network, in evaluation mode.
        out (str | Path): The file.
        metadata (Mapping, optional): Texts, or what JSON can express, to store
            in the file. Defaults to None.

    Raises:
        ImportError: If a package is missing.
        ValueError: If the file's name does not end in .onnx.
    """
    if Path(out).suffix != '.onnx':
        raise ValueError(f'the name of the file must end in .onnx, not in {Path(out).suffix!r}.')
    check_installed()
    import onnx

    buffer = io.BytesIO()
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
    if SIZES in network.input_names:  # optional: pictures fill the batch
        no_limit = np.full((1, 2), np.iinfo(np.int64).max)
        model.graph.initializer.append(onnx.numpy_helper.from_array(no_limit, SIZES))
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in (metadata or {}).items()}
    onnx.helper.set_model_props(model, texts)
    DurableLocalBackend().put(model.SerializeToString(), out)


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
    check_installed()
    import onnxruntime

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
