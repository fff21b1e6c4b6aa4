# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Files that would do something else than what they are read for."""

import ast
import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from faults import hostile_files

REPOSITORY = Path(__file__).parents[2]
# What runs what a file holds; mmengine's load() reads pickles and YAML with objects.
UNSAFE = {
    'torch.load', 'torch.hub.load', 'torch.jit.load', 'pickle.load', 'pickle.loads', 'joblib.load',
    'yaml.load', 'yaml.unsafe_load', 'eval', 'exec', 'os.system', 'mmengine.load', 'np.load',
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('way', hostile_files._WAYS_IN)
def test_checkpoint_that_brings_code_is_refused(way, tmp_path, mini_data, monkeypatch):
    (tmp_path / 'data').symlink_to(mini_data)
    monkeypatch.setattr(hostile_files, '_WAYS_IN', {way: hostile_files._WAYS_IN[way]})
    assert hostile_files._load(tmp_path, np.random.default_rng(7)) == 'refused with its name'
    assert not (tmp_path / 'mark').exists()


def test_checkpoints_come_by_ways_of_all_kinds(tmp_path):
    """The table's row, which makes the data by itself."""
    outcome = hostile_files.malicious_checkpoints(4, tmp_path, seed=0)
    assert outcome.failures == []
    assert outcome.counts == {'refused with its name': 4}


@pytest.mark.parametrize('seed', range(6))
def test_the_checkpoints_are_no_blanks(seed, tmp_path):
    hostile_files.write_malicious(
        tmp_path / 'x.pth', tmp_path / 'mark', np.random.default_rng(seed)
    )
    with contextlib.suppress(RuntimeError):  # torch finds out later that one is no checkpoint
        torch.load(tmp_path / 'x.pth', weights_only=False)
    assert (tmp_path / 'mark').is_dir()


def test_archives_write_nothing_outside_of_their_folder(tmp_path):
    outcome = hostile_files.malicious_archives(100, tmp_path, seed=0)
    assert outcome.failures == []
    assert outcome.counts.total() == 100 and min(outcome.counts.values()) > 9


def calls_in(path):
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {
        ast.unparse(call.func)
        for call in calls
        if all(ast.unparse(keyword) != 'weights_only=True' for keyword in call.keywords)
    }


def test_nothing_here_loads_files_that_can_hold_code():
    """Checkpoints are read by mmengine's loader alone, which is made safe in compat."""
    folders = 'mmdmformer', 'tools', 'demo', 'benchmarks'
    files = [f for name in folders for f in (REPOSITORY / name).rglob('*.py')]
    assert len(files) > 40
    found = {(f.relative_to(REPOSITORY).as_posix(), call) for f in files for call in calls_in(f)}
    own = {  # what they just wrote
        ('mmdmformer/deploy/torch_export.py', 'torch.jit.load'),
    }
    assert {entry for entry in found if entry[1] in UNSAFE} - own == set()
