# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Networks for other runtimes: what a config builds, as one module from pixels to results."""
