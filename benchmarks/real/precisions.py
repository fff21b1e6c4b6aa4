# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Which layers a runtime runs in which precision, and for which share of its time.

It is what the profiles of ONNX Runtime and OpenVINO say of the trained segmentor, exported in
float32 and in int8. Writes precisions.csv and the table of docs/deployment.md. Run it where both
runtimes are: `make runtimes` makes such an environment, .venv-runtimes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import onnxruntime
from mmengine.config import Config

import mmdmformer  # noqa: F401  (registers, and serves mmcv.ops)
from comparison import ROOT
from mmdmformer.deploy import int8, networks, onnx_export, verify
from mmdmformer.deploy.formats import FORMATS
from results import FOLDER

sys.path.append(str(ROOT / 'benchmarks'))
from markdown_pages import keep_table  # noqa: E402

RESULTS, PAGE = FOLDER / 'precisions.csv', ROOT / 'docs/deployment.md'
BEGIN, END = '<!-- precisions table -->', '<!-- end of precisions table -->'
CONFIG = ROOT / 'configs/camvid/dmformer-nano_sem-fpn_camvid.py'
CHECKPOINT = ROOT / 'weights/dmformer-nano_sem-fpn_camvid.safetensors'
FIELDS = ('runtime', 'file', 'layers', 'precision', 'count', 'share')
REPETITIONS = 15
CONVOLUTIONS, DEPTHWISE = 'convolutions', 'depthwise convolutions'
LINEAR, CHANGES, REST = 'linear layers', 'changes of layout or precision', 'everything else'
KINDS = {  # by the runtimes' names of operators
    **dict.fromkeys(['Conv', 'QLinearConv', 'Convolution', 'GroupConvolution'], CONVOLUTIONS),
    **dict.fromkeys(['Gemm', 'FusedGemm', 'QGemm'], LINEAR),
    **dict.fromkeys(['FullyConnected', 'FullyConnectedQuantizedLegacy'], LINEAR),
    **dict.fromkeys(
        ['QuantizeLinear', 'DequantizeLinear', 'ReorderInput', 'ReorderOutput'], CHANGES
    ),
    **dict.fromkeys(['FakeQuantize', 'Reorder', 'Convert'], CHANGES),
}
# name, operator, whether it is in int8, and microseconds of a layer
Layer = tuple[str, str, bool, float]


def profile_onnxruntime(file: Path, inputs: dict[str, np.ndarray]) -> Iterator[Layer]:
    """Yield the layers that ONNX Runtime ran, once for each time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = 1, True
    options.profile_file_prefix = str(file.with_suffix(''))
    session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
    for _ in range(REPETITIONS):
        session.run(None, inputs)
    for event in json.loads(Path(session.end_profiling()).read_text()):
        name, is_kernel, _ = event['name'].partition('_kernel_time')
        if event['cat'] == 'Node' and is_kernel:
            operator = event['args']['op_name']
            yield name, operator, operator in ('QLinearConv', 'QGemm'), event['dur']


def profile_openvino(file: Path, inputs: dict[str, np.ndarray]) -> Iterator[Layer]:
    """Yield the layers that OpenVINO ran, once for each time."""
    import openvino

    settings = dict(INFERENCE_PRECISION_HINT='f32', INFERENCE_NUM_THREADS=1, PERF_COUNT=True)
    request = openvino.Core().compile_model(file, 'CPU', settings).create_infer_request()
    for _ in range(REPETITIONS):
        request.infer(inputs)
        for layer in request.profiling_info:
            if layer.status == openvino.ProfilingInfo.Status.EXECUTED:
                is_int8 = layer.exec_type.endswith('I8') and layer.node_type in KINDS
                yield (
                    layer.node_name,
                    layer.node_type,
                    is_int8 and KINDS[layer.node_type] != CHANGES,
                    layer.real_time.total_seconds() * 1e6,
                )


PROFILES = {'.onnx': profile_onnxruntime, '.xml': profile_openvino}


def measure() -> list[dict[str, str]]:
    """Profile the segmentor in both runtimes and both precisions.

    Returns:
        list[dict[str, str]]: One row for each kind and precision of layers.
    """
    cfg, rows = Config.fromfile(CONFIG), []
    network = networks.build_network(cfg, str(CHECKPOINT))
    pictures = verify.prepare_pictures(verify.pictures_of(cfg, 'train', 64), cfg)
    graph = onnx_export.build_onnx(network).graph
    grouped = [n for n in graph.node if any(a.name == 'group' and a.i > 1 for a in n.attribute)]
    names, inputs = [node.name for node in grouped], int8.feeds(network, pictures)[0]
    with tempfile.TemporaryDirectory() as folder:
        for suffix, profile in PROFILES.items():
            files = [Path(folder) / f'{name}{suffix}' for name in ('float32', 'int8')]
            FORMATS[suffix].export(network, files[0])
            int8.quantize(network, files[1], pictures)
            for file in files:
                common = dict(runtime=FORMATS[suffix].runtime, file=file.stem)
                rows += [common | row for row in summarize(profile(file, inputs), names)]
    return rows


def summarize(layers: Iterator[Layer], depthwise: list[str]) -> Iterator[dict[str, str]]:
    """Count layers, and add up their median times.

    Args:
        layers (Iterator[Layer]): As a runtime ran them.
        depthwise (list[str]): Names that those of depthwise convolutions begin with.

    Yields:
        dict[str, str]: A row without runtime and file.

    Examples:
        >>> layers = [('a/Conv_1', 'Conv', False, 30.0), ('b', 'QGemm', True, 10.0)] * 2
        >>> for row in summarize(iter(layers), ['a/Conv']):
        ...     print(*row.values())
        depthwise convolutions float32 1 0.750
        linear layers int8 1 0.250
    """
    runs: dict[tuple[str, str, bool], list[float]] = {}
    for *layer, microseconds in layers:
        runs.setdefault(tuple(layer), []).append(microseconds)
    times, counts = Counter(), Counter()
    for (name, operator, is_int8), microseconds in runs.items():
        kind = KINDS.get(operator, REST)
        if kind == CONVOLUTIONS and name.startswith(tuple(depthwise)):
            kind = DEPTHWISE
        key = kind, '-' if kind == CHANGES else 'int8' if is_int8 else 'float32'
        times[key] += statistics.median(microseconds)
        counts[key] += 1
    for key in sorted(times):
        share = f'{times[key] / times.total():.3f}'
        yield dict(layers=key[0], precision=key[1], count=str(counts[key]), share=share)


def read_rows() -> list[dict[str, str]]:
    """Read the results."""
    with RESULTS.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def write_rows(rows: list[dict[str, str]]) -> None:
    """Write the results."""
    with RESULTS.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def make_table(rows: list[dict[str, str]]) -> str:
    """The page's table: a column for each runtime and file."""
    columns = [key for key, _ in groupby(rows, lambda row: (row['runtime'], row['file']))]
    lines = [
        f'| layers | {" | ".join(f"{runtime}, {file}" for runtime, file in columns)} |',
        f'| --- |{" --- |" * len(columns)}',
    ]
    for kind in (CONVOLUTIONS, DEPTHWISE, LINEAR, CHANGES, REST):
        cells = []
        for runtime, file in columns:
            here = [
                r for r in rows if (r['runtime'], r['file'], r['layers']) == (runtime, file, kind)
            ]
            cells.append(', '.join(_cell(row) for row in here) or '-')
        lines.append(f'| {kind} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _cell(row: dict[str, str]) -> str:
    precision = '' if row['precision'] == '-' else f' in {row["precision"]}'
    return f'{row["count"]}{precision}, {100 * float(row["share"]):.0f} %'


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--check', action='store_true', help='run nothing; fail on a difference')
    args = parser.parse_args()
    os.chdir(ROOT)
    if not args.check:
        write_rows(measure())
    table = make_table(read_rows())
    keep_table(PAGE, BEGIN, END, table, args.check, 'benchmarks/real/precisions.py')


if __name__ == '__main__':
    main()
