# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Data sets, transforms and metrics that configs name; layouts and checks of published data."""
