# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The networks by name and without a config; ``timm_models`` puts them into timm's registry."""

from .models import data_settings, get_model, list_models

__all__ = ['data_settings', 'get_model', 'list_models']
