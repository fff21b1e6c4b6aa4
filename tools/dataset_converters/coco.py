# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Unpack COCO 2017 and check that its annotations fit its images.

Interrupted and started again, it goes on. An archive may be missing once its part is complete.
"""

from mmdmformer.datasets.converters import prepare_coco, run_converter
from mmdmformer.datasets.layouts import COCO

if __name__ == '__main__':
    run_converter(
        __doc__, '{train,val}2017.zip and annotations_trainval2017.zip', prepare_coco, COCO
    )
