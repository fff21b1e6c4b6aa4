# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The one place that knows which OpenMMLab stack and which torch are installed."""


def prepare() -> None:
    """Prepare the installed stack for training and testing."""
    from . import mmcv_ops

    mmcv_ops.install()
