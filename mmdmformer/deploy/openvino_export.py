# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Networks as OpenVINO's files, for any batch and any sides."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .metadata import as_texts
from .networks import Network
from .onnx_export import INPUT, SIZES, build_onnx
from .packages import need

SECTION = 'about'  # of a file's rt_info: what it says of itself
PRECISION = 'f32'  # in which a file is compared, and which it asks for


def export(
    network: Network,
    out: str | Path,
    metadata: Mapping[str, Any] | None = None,
    model: Any = None,
) -> None:
    """Write a network as OpenVINO's two files, the graph (.xml) and the weights beside it (.bin).

    Weights stay in float32. OpenVINO runs them in bfloat16 on a CPU that has it, unless told
    otherwise: so the metadata's ``precision`` names the precision that was compared.

    Args:
        network (Network): The network, in evaluation mode. What it takes beside
            images, OpenVINO always asks for.
        out (str | Path): The file, .xml.
        metadata (Mapping, optional): Texts, or what JSON can express, to store
            in the file. Defaults to None.
        model (openvino.Model, optional): What was made of the network. Defaults
            to the network itself.

    Raises:
        ImportError: If a package is missing.
    """
    openvino = need('openvino')
    model = model or openvino.Core().read_model(build_onnx(network).SerializeToString())
    for key, text in as_texts(dict(metadata or {}, precision=PRECISION)).items():
        model.set_rt_info(text, [SECTION, key])
    openvino.save_model(model, out, compress_to_fp16=False)


def load(path: str | Path, threads: int = 0) -> Callable[[Tensor], Sequence[Tensor]]:
    """Load a file of :func:`export`, on the CPU and in the precision that it asks for.

    Args:
        path (str | Path): The file.
        threads (int): Threads; 0 leaves it to OpenVINO. Defaults to 0.

    Returns:
        Callable: From images to the outputs.

    Raises:
        ImportError: If a package is missing.
    """
    core = need('openvino').Core()
    settings = dict(INFERENCE_PRECISION_HINT=PRECISION, INFERENCE_NUM_THREADS=threads)
    network = core.compile_model(core.read_model(path), 'CPU', settings)

    names = [each.any_name for each in network.inputs]

    def run(images: Tensor) -> list[Tensor]:
        feeds = {INPUT: images.numpy(), SIZES: np.array([images.shape[2:]])}
        outputs = network({name: feeds[name] for name in names})
        return [torch.from_numpy(outputs[i].copy()) for i in range(len(outputs))]

    return run
