# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What an exported .param file predicts for pictures, without torch and without mmdmformer."""

import json
from pathlib import Path

import numpy as np

from exported import main


def read(file):  # what it says of itself, and what runs it
    import ncnn

    about = json.loads(Path(file).with_suffix('.json').read_text())
    about = {key: v if isinstance(v, str) else json.dumps(v) for key, v in about.items()}
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(file)
    net.load_model(str(Path(file).with_suffix('.bin')))

    def run(feeds):
        extractor, image = net.create_extractor(), np.ascontiguousarray(feeds['images'][0])
        extractor.input('in0', ncnn.Mat(image))  # which does not keep the array alive
        return [np.array(extractor.extract('out0')[1])[None]]

    return about, run


if __name__ == '__main__':
    main(read)
