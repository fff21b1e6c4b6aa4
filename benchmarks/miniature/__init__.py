# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer-nano beside its ablations and other networks of its size, trained alike from scratch.

The papers' comparison on small data: every network is trained for classification, and from
that checkpoint for Semantic FPN, on the built-in data, with several seeds. A run that is in the
results file is not repeated.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / 'demo'))  # where the data are made
