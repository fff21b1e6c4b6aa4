# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What an exported .xml file predicts for pictures, without torch and without mmdmformer."""

import openvino

from exported import main


def read(file):  # what it says of itself, and what runs it
    core = openvino.Core()
    model = core.read_model(file)
    about = model.get_rt_info('about').value
    settings = dict(INFERENCE_PRECISION_HINT=about['precision'])
    network = core.compile_model(model, 'CPU', settings)
    return about, lambda feeds: list(network(feeds).values())


if __name__ == '__main__':
    main(read)
