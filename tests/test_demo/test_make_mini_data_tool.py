# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from mini_data import make_mini_data

TOOL = Path(__file__).parents[2] / 'demo' / 'make_mini_data.py'


def read_bytes(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def test_two_processes_at_once_write_one_folder_and_show_progress(tmp_path):
    command = [sys.executable, str(TOOL), '--scale', '0.01']
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    processes = [subprocess.Popen(command, cwd=tmp_path, **pipes) for _ in range(2)]
    for process in processes:
        output, _ = process.communicate()
        assert process.returncode == 0, output
        assert '100%' in output or 'reusing' in output
    assert [p.name for p in (tmp_path / 'data').iterdir()] == ['mini']
    expected = make_mini_data(tmp_path / 'here', scale=0.01, quiet=True)
    assert read_bytes(tmp_path / 'data' / 'mini') == read_bytes(expected)


def test_refuses_in_one_sentence_and_obeys_force(tmp_path, capsys):
    main = runpy.run_path(str(TOOL))['main']
    arguments = ['--scale', '0.01', '--out', str(tmp_path / 'mini')]
    main(arguments)
    with pytest.raises(SystemExit) as caught:
        main([*arguments, '--seed', '2'])
    assert 'seed 1, not 2' in caught.value.code and '\n' not in caught.value.code
    main([*arguments, '--seed', '2', '--force'])
    main([*arguments, '--seed', '2'])
    assert 'reusing' in capsys.readouterr().out
