# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What an exported .pte file predicts for pictures, without mmdmformer."""

import json
from pathlib import Path

import numpy as np

from exported import main


def read(file):  # what it says of itself, and what runs it
    import torch  # which ExecuTorch's Python package needs
    from executorch.runtime import Runtime, Verification

    about = json.loads(Path(file).with_suffix('.json').read_text())
    about = {key: v if isinstance(v, str) else json.dumps(v) for key, v in about.items()}
    program = Runtime.get().load_program(file, verification=Verification.Minimal)

    def run(feeds):
        images = torch.from_numpy(np.ascontiguousarray(feeds['images']))
        return [np.array(output) for output in program.load_method('forward').execute([images])]

    return about, run


if __name__ == '__main__':
    main(read)
