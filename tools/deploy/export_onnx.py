# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Export a model as ONNX, for any batch and any sides, and compare it with PyTorch.

Classifiers, RetinaNet with or without post-processing, segmentors with FPNHead or UPerHead, and the
backbone of any model. Norms are folded where the backbone can. docs/deployment.md names inputs and
outputs.
"""

import mmdmformer  # noqa: F401  (prepares the stack)
from mmdmformer.deploy import command, onnx_export
from mmdmformer.engine import runtime


def main() -> None:
    args = command.parser(__doc__, 'file to write, .onnx').parse_args()
    with runtime.one_sentence_errors():
        command.run(args, onnx_export.export, onnx_export.load, 'onnxruntime')


if __name__ == '__main__':
    main()
