# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Pretraining on images without labels."""
