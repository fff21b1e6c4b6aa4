# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The formats that a network can be written in, by the suffix of the file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..engine.errors import UsageError
from . import executorch_export, ncnn_export, onnx_export, openvino_export, torch_export


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        export (Callable): Writes a network to a file, with metadata.
        load (Callable): Loads the file, for running it from images to outputs.
        runtime (str): What runs it.
        beside (Sequence[str]): Suffixes of files that are written beside it.
        note (str | None): What its user must know.
    """

    export: Callable[..., None]
    load: Callable[[Path], Callable[[Tensor], Sequence[Tensor]]]
    runtime: str
    beside: Sequence[str] = ()
    note: str | None = None

    def files(self, out: Path) -> list[Path]:
        """All files of a network, that of its name last."""
        return [*(out.with_suffix(suffix) for suffix in self.beside), out]


FORMATS = {
    '.onnx': Format(onnx_export.export, onnx_export.load, 'ONNX Runtime'),
    '.xml': Format(
        openvino_export.export,
        openvino_export.load,
        'OpenVINO',
        beside=['.bin'],
        note='compared in float32, which OpenVINO must be told on CPUs with bfloat16: '
        "compile_model(..., 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'}).",
    ),
    '.param': Format(
        ncnn_export.export,
        ncnn_export.load,
        'ncnn',
        beside=['.bin', '.json'],
        note='ncnn takes one picture at a time, and was compared so, in float32: load with '
        'opt.use_fp16_packed, use_fp16_storage and use_fp16_arithmetic off.',
    ),
    '.pte': Format(
        executorch_export.export,
        executorch_export.load,
        'ExecuTorch',
        beside=['.json'],
        note='a .pte takes one picture at a time, with sides of '
        f'{executorch_export.SMALLEST} to {executorch_export.LARGEST} pixels, and was compared so.',
    ),
    '.pt2': Format(torch_export.export, torch_export.load, 'torch.export'),
    '.pt': Format(torch_export.export, torch_export.load, 'TorchScript'),
}


def format_of(out: Path) -> Format:
    """Find the format of a file.

    Args:
        out (Path): The file.

    Returns:
        Format: Its format.

    Raises:
        UsageError: If its suffix is none of them.
    """
    if out.suffix not in FORMATS:
        known = ', '.join(f'{suffix} ({form.runtime})' for suffix, form in FORMATS.items())
        raise UsageError(f'the name of {out} must end in one of {known}.')
    return FORMATS[out.suffix]


def check_free(out: Path) -> None:
    """Check that no file of a network in another format would be replaced.

    Args:
        out (Path): The file to write. OpenVINO and ncnn both put weights into a .bin beside it.

    Raises:
        UsageError: If one would.
    """
    files = set(format_of(out).files(out))
    for suffix, form in FORMATS.items():
        other = out.with_suffix(suffix)
        if other != out and other.exists() and files.intersection(form.files(other)):
            raise UsageError(
                f'{out} would replace the weights of {other}, which have the same name: choose '
                'another name or directory.'
            )
