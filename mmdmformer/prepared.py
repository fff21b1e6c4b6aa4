# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Importing this module calls :func:`mmdmformer.prepare`, as a config can ask for.

mmengine imports what a config names when it reads the file, before anything is built or loaded.

Examples:
    >>> custom_imports = dict(imports=['mmdmformer.prepared'])
"""

from .compat import prepare

prepare()
