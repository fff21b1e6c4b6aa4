# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Unpack COCO 2017 and check that its annotations fit its images.

After an interruption, start it again to continue. An archive is no longer needed once its part is
complete.
"""

from mmdmformer.datasets.converters import prepare_coco, run_converter
from mmdmformer.datasets.layouts import COCO

if __name__ == '__main__':
    run_converter(
        __doc__, '{train,val}2017.zip and annotations_trainval2017.zip', prepare_coco, COCO
    )
