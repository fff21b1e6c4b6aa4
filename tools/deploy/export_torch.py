# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Export a model for PyTorch without its code, for any batch and any sides, and compare it.

The name says the format: .pt2 is torch.export's, .pt is TorchScript. docs/deployment.md says what
can be exported.
"""

import mmdmformer  # noqa: F401  (prepares the stack)
from mmdmformer.deploy import command, torch_export
from mmdmformer.engine import runtime


def main() -> None:
    args = command.parser(__doc__, 'file to write, .pt2 or .pt').parse_args()
    with runtime.one_sentence_errors():
        command.run(args, torch_export.export, torch_export.load, 'the exported network')


if __name__ == '__main__':
    main()
