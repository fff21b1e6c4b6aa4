# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What an exported .onnx file predicts for pictures, without torch and without mmdmformer."""

from exported import main


def read(file):  # what it says of itself, and what runs it
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    return session.get_modelmeta().custom_metadata_map, lambda feeds: session.run(None, feeds)


if __name__ == '__main__':
    main(read)
