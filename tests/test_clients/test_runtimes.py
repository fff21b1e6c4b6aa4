# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What runtimes of requirements/runtimes.txt make of our networks is what the toolboxes predict."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / 'tests/test_deploy'))
from test_export import KINDS, built, compare  # noqa: E402, F401  (built is a fixture)

from mmdmformer.deploy.formats import FORMATS  # noqa: E402

NEEDED = {'.xml': ['openvino']}
CAN = {'.xml': list(KINDS)}
each_suffix = pytest.mark.parametrize('suffix', NEEDED)


@pytest.fixture
def form(suffix):
    for package in NEEDED[suffix]:
        pytest.importorskip(package, reason='make runtimes installs it')
    return FORMATS[suffix]


@pytest.mark.parametrize('suffix, kind', [(s, kind) for s, kinds in CAN.items() for kind in kinds])
def test_runtime(suffix, kind, form, built, tmp_path):  # noqa: F811
    *_, predict, network = built(kind)
    out = tmp_path / 'network'
    form.export(network, out.with_suffix(suffix), dict(classes=['a "quoted" & <b>', 'ü']))
    assert sorted(tmp_path.iterdir()) == sorted(form.files(out.with_suffix(suffix)))
    results = compare(predict, network, form.load(out.with_suffix(suffix)))
    assert {r.counts for r in results} == {network.counts}
    assert max(r.relative for r in results) < 2e-5


@each_suffix
def test_tool(suffix, form, built, python, tmp_path):  # noqa: F811
    _, checkpoint, *_ = built('classifier')
    words = ['tools/deploy/export.py', 'configs/mini/dmformer-nano_mini-imagenet.py']
    command = [*(ROOT / word for word in words), checkpoint, f'nano{suffix}']
    options = ['--sizes', '64x64', '64x96', '--batches', '1', '2', '--repetitions', '1']
    result = python(*command, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert sum('largest difference' in line for line in lines) == 8
    assert form.note is None or f'note: {form.note}' in lines
    assert f'{form.runtime} ' in lines[-1]
    files = [file.name for file in form.files(Path(f'nano{suffix}'))]
    written = {name: (tmp_path / name).read_bytes() for name in files}
    # What fails leaves earlier files as they were.
    result = python(*command, *options, '--tolerance', '0', cwd=tmp_path)
    assert result.returncode == 2 and 'Nothing was written.' in result.stderr
    assert {name: (tmp_path / name).read_bytes() for name in files} == written
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith('.std')} == set(files)
