# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The Triton kernels as they would run on GPUs, compiled ahead of time without one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip('triton')
from mmdmformer.ops import triton_dwconv  # noqa: E402

PROGRAM = Path(__file__).with_name('compiled_kernels.py')
KERNELS = dict(
    forward=triton_dwconv._convolve_kernel, weight_gradient=triton_dwconv._weight_gradient_kernel
)
# Of a multiprocessor of sm_80 and sm_90: CUDA C++ Programming Guide, Compute Capabilities
REGISTERS, WARPS, BLOCKS, WARP = 65536, 64, 32, 32
SHARED_BYTES = {80: 164 * 1024, 90: 228 * 1024}
REGISTER_UNIT, RESERVED_SHARED_BYTES = 256, 1024  # registers go to warps in such units


@pytest.fixture(scope='module')
def results():
    env = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    run = subprocess.run(
        [sys.executable, PROGRAM], capture_output=True, text=True, check=True, env=env
    )
    return [json.loads(line) for line in run.stdout.splitlines()]


def occupancy(result):
    """The share of a multiprocessor's warps that can be there at once."""
    per_warp = -(-result['registers'] * WARP // REGISTER_UNIT) * REGISTER_UNIT
    shared = result['shared_bytes'] + RESERVED_SHARED_BYTES
    by_registers = REGISTERS // per_warp // result['warps']
    blocks = min(by_registers, BLOCKS, SHARED_BYTES[result['capability']] // shared)
    return min(blocks * result['warps'], WARPS) / WARPS


def check(result):
    assert result['spills'] == result['stack_bytes'] == 0
    assert occupancy(result) >= 0.5


def test_nothing_spills_and_the_gpu_is_full(results):
    *kernels, _ = results
    assert len(kernels) == 2 * 3 * 2
    for result in kernels:
        assert result['max_registers'] is None
        check(result)


def test_a_spill_would_be_noticed(results):
    *kernels, forced = results
    assert forced['registers'] < min(result['registers'] for result in kernels)
    with pytest.raises(AssertionError):
        check(forced)


def test_too_many_registers_would_be_noticed(results):
    assert occupancy(dict(results[0], registers=64)) == 0.5
    with pytest.raises(AssertionError):
        check(dict(results[0], registers=65))


@pytest.mark.skipif(not triton.__version__.startswith('3.6.'), reason='stated for Triton 3.6')
def test_loops_are_as_long_as_the_docstrings_say(results):
    for result in results[:-1]:
        text = KERNELS[result['kernel']].fn.__doc__
        on_80, on_90, half_on_80, half_on_90 = map(int, re.findall(r'\b\d{2,3}\b', text))
        stated = {80: on_80, 90: on_90}
        if result['dtype'] != 'fp32':
            stated = {80: half_on_80, 90: half_on_90}
        assert result['multiply_adds'] == [2]  # of a thread
        assert result['loops'] == [stated[result['capability']]]
