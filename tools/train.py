# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Train a model: the same as ``python -m mmdmformer.train``."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec('mmdmformer') is None:  # a checkout that has not been installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmdmformer.train import main

if __name__ == '__main__':
    main()
