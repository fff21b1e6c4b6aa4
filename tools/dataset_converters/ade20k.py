# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Unpack ADE20K (the scene parsing benchmark).

After an interruption, start it again to continue. An archive is no longer needed once its part is
complete.
"""

from mmdmformer.datasets.converters import prepare_ade20k, run_converter
from mmdmformer.datasets.layouts import ADE20K

if __name__ == '__main__':
    run_converter(__doc__, 'ADEChallengeData2016.zip', prepare_ade20k, ADE20K)
