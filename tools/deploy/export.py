# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Export a model, for any batch and any sides, and compare it with its toolbox's predictions.

The name of the file says the format: .onnx, .xml (OpenVINO), .param (ncnn), .pt2 (torch.export)
or .pt (TorchScript). Classifiers, RetinaNet with or without post-processing, segmentors with
FPNHead or UPerHead, and the backbone of any model. Norms are folded where the backbone can.
docs/deployment.md names inputs and outputs.
"""

import mmdmformer  # noqa: F401  (prepares the stack)
from mmdmformer.deploy import command
from mmdmformer.engine import runtime


def main() -> None:
    args = command.parser(__doc__).parse_args()
    with runtime.one_sentence_errors():
        command.run(args)


if __name__ == '__main__':
    main()
