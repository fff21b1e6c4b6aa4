# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Unpack ImageNet-1K (ILSVRC 2012) into one folder per class.

After an interruption, start it again to continue. An archive is no longer needed once its part is
complete.
"""

from mmdmformer.datasets.converters import prepare_imagenet, run_converter
from mmdmformer.datasets.layouts import IMAGENET

if __name__ == '__main__':
    run_converter(
        __doc__, 'ILSVRC2012_img_{train,val}.tar and the devkit', prepare_imagenet, IMAGENET
    )
