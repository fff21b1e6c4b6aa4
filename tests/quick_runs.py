# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Training runs of some seconds, without what takes most of that time."""

import gc

import mmengine.config.config
import yapf.yapflib.yapf_api


def make_runs_quick() -> None:
    """Leave configs as they are written, and out of the garbage collection what is imported.

    mmengine formats a run's config at its start and for every checkpoint, and looks for garbage
    in the whole process for every data set.
    """
    for module in (yapf.yapflib.yapf_api, mmengine.config.config):
        module.FormatCode = _leave_as_it_is
    gc.freeze()


def _leave_as_it_is(text, **options):
    return text, True
