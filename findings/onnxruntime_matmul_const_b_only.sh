#!/usr/bin/env bash
# onnxruntime 1.31.1: quantize_static quantizes products of two activations whatever MatMulConstBOnly says.
#
# Expected: the docstring of quantize_static says of extra_options MatMulConstBOnly "If enabled, only MatMul with
# const B will be quantized".
# What happens: in the default format, QDQ, the option changes nothing. Products of two activations, such as those of
# attention, are quantized, and run in int8. Name them in nodes_to_exclude instead.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import logging
from types import SimpleNamespace

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

logging.disable(logging.WARNING)
names = ['a', 'b', 'y']
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [8, 8]) for name in names]
node = helper.make_node('MatMul', names[:2], names[2:], 'product')
graph = helper.make_graph([node], 'graph', values[:2], values[2:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8)
rng = np.random.default_rng(0)


def runs(quant_format, **options):
    """Which operators run of the product of two activations once it is quantized."""
    feeds = iter([{name: rng.random((8, 8), np.float32) for name in names[:2]}])
    quantize_static(
        onnx.ModelProto.FromString(model.SerializeToString()),
        'int8.onnx',
        SimpleNamespace(get_next=lambda: next(feeds, None)),
        quant_format=quant_format,
        activation_type=QuantType.QUInt8,
        **options,
    )
    settings = SessionOptions()
    settings.log_severity_level = 3
    settings.optimized_model_filepath = 'runs.onnx'
    InferenceSession('int8.onnx', settings, providers=['CPUExecutionProvider'])
    return [node.op_type for node in onnx.load('runs.onnx').graph.node]


only = dict(extra_options=dict(MatMulConstBOnly=True))
for title, quant_format, options, is_int8 in (
    ('QOperator, MatMulConstBOnly', QuantFormat.QOperator, only, False),
    ('QDQ, MatMulConstBOnly', QuantFormat.QDQ, only, True),
    ('QDQ, nodes_to_exclude', QuantFormat.QDQ, dict(nodes_to_exclude=['product']), False),
):
    operators = runs(quant_format, **options)
    print(f'{title}: {", ".join(operators)}')
    assert ('QLinearMatMul' in operators) == is_int8
PYTHON
echo 'As described: in the QDQ format the option changes nothing.'
