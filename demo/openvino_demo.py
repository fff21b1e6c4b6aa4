# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What an exported .xml file predicts for pictures, without torch and without mmdmformer."""

from exported import main


def read(file):  # what it says of itself, and what runs it
    import openvino

    model = openvino.Core().read_model(file)
    about = model.get_rt_info('about').value
    net = openvino.compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': about['precision']})
    return about, lambda feeds: list(net(feeds).values())


if __name__ == '__main__':
    main(read)
