# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Test a model: the same as ``python -m mmdmformer.test``."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec('mmdmformer') is None:  # a checkout that has not been installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmdmformer.test import main

if __name__ == '__main__':
    main()
