# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Errors that end a run with one sentence."""


class UsageError(Exception):
    """A user's mistake; the message is one sentence with the fix."""
