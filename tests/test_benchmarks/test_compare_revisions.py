# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Two revisions measured in turns."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compare_revisions import Worker

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / 'benchmarks/compare_revisions.py'


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, timeout=300
    )


def test_a_revision_is_about_as_fast_as_itself():
    done = run('HEAD', '--arch', 'nano', '--side', '32', '--repetitions', '5')
    assert done.returncode == 0, done.stderr
    medians = re.findall(r'^(inference folded|inference|training) +([\d.]+) ', done.stdout, re.M)
    assert [case for case, _ in medians] == ['inference folded', 'inference', 'training']
    assert all(0.5 < float(median) < 2 for _, median in medians)
    worktrees = subprocess.run(
        ['git', '-C', str(ROOT), 'worktree', 'list'], capture_output=True, text=True, check=True
    )
    assert '/before' not in worktrees.stdout


def test_a_revision_is_not_the_one_that_it_is_called_from(tmp_path, monkeypatch):
    (tmp_path / 'mmdmformer').mkdir()
    (tmp_path / 'mmdmformer/__init__.py').write_text('')  # a revision without DMFormer
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match='a revision has no DMFormer'):
        Worker(tmp_path, 'nano', 32).wait()


def test_an_unknown_revision_is_refused():
    done = run('no-such-revision')
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: 'no-such-revision' is no revision: give one that git knows."
    )
