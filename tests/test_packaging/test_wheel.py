# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A wheel carries the package, its configs and its tools, and works away from the checkout."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USE = """
import importlib
import pkgutil
import sys
from pathlib import Path

import mmdmformer
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

package = Path(mmdmformer.__file__).parent
assert package.parent == Path(sys.argv[1]), package
with torch.no_grad():
    outputs = mmdmformer.DMFormer('nano').eval()(torch.zeros(1, 3, 64, 64))
assert [tuple(x.shape) for x in outputs] == [(1, 128, 2, 2)], [x.shape for x in outputs]
configs = [p for p in (package / '.mim/configs').rglob('*.py') if '_base_' not in p.parts]
models = [Config.fromfile(path).model.type for path in configs]
(nano,) = [path for path in configs if path.stem == 'retinanet_dmformer-nano_fpn_bccd']
backbone = MODELS.build(Config.fromfile(nano).model.backbone)
backbone.init_weights()
shipped = mmdmformer.get_model('dmformer_nano', pretrained=True).backbone.state_dict()
assert all(tensor.equal(shipped[name]) for name, tensor in backbone.state_dict().items())
for module in pkgutil.walk_packages(mmdmformer.__path__, 'mmdmformer.'):
    importlib.import_module(module.name)  # none needs what lies beside the package
print(len(models))
"""


def project_files():
    """The project's files: what git tracks, and what it would if it were told to."""
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z']
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    return [name for name in listed.decode().split('\0') if name and (ROOT / name).is_file()]


def build(source, kind, folder):
    """Builds as pip does, through the build backend."""
    folder.mkdir(exist_ok=True)
    code = f'from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))'
    command = [sys.executable, '-c', code]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder / result.stdout.splitlines()[-1]


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A clean copy of the project, and the wheels made from it and from its sdist."""
    if not (ROOT / '.git').exists():
        pytest.skip('needs a git checkout, to tell the project from what lies beside it')
    place = tmp_path_factory.mktemp('packaging')
    source = place / 'source'
    for name in project_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    wheel = build(source, 'wheel', place / 'wheel')
    sdist = build(source, 'sdist', place / 'sdist')
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, 'data_filter', None)  # Python 3.14's default
        archive.extractall(place / 'unpacked')
    (unpacked,) = (place / 'unpacked').iterdir()
    return source, wheel, build(unpacked, 'wheel', place / 'again')


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info for info in archive.infolist()}


def test_wheel_holds_every_module_config_and_tool(built):
    _, wheel, _ = built
    files = project_files()
    modules = {name for name in files if name.startswith('mmdmformer/')}
    extras = {name for name in files if name.startswith(('configs/', 'tools/', 'model-index.yml'))}
    packed = contents(wheel)
    expected = modules | {f'mmdmformer/.mim/{name}' for name in extras}
    assert {name for name in packed if name.startswith('mmdmformer/')} == expected
    assert {name.split('/')[0].split('-')[0] for name in packed} == {'mmdmformer'}
    assert not any('/benchmarks/' in name or '/tests/' in name for name in packed)
    for name in extras:
        runs = os.access(ROOT / name, os.X_OK)
        assert bool(packed[f'mmdmformer/.mim/{name}'].external_attr >> 16 & 0o100) == runs


def test_sdist_leads_to_the_same_wheel(built):
    _, wheel, again = built
    first, second = ({n: i.CRC for n, i in contents(path).items()} for path in (wheel, again))
    assert first == second


def test_wheel_requires_nothing_and_offers_both_stacks(built):
    _, wheel, _ = built
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))
        metadata = email.message_from_bytes(archive.read(name))
    requires = metadata.get_all('Requires-Dist')
    assert all('extra ==' in line for line in requires)
    assert set(metadata.get_all('Provides-Extra')) == {
        'openmmlab',
        'onedl',
        'tests',
        'optional',
        'clients',
        'runtimes',
        'executorch',
    }
    assert any(r.startswith('mmdet==') and 'openmmlab' in r for r in requires)
    assert any(r.startswith('onedl-mmdetection==') and 'onedl' in r for r in requires)
    assert metadata['Requires-Python'] == '>=3.10'
    assert metadata['License'] or metadata['License-Expression']


def test_wheel_works_away_from_the_checkout(built, tmp_path):
    _, wheel, _ = built
    target, elsewhere = tmp_path / 'target', tmp_path / 'elsewhere'
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    environment = {**os.environ, 'PYTHONPATH': str(target)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
        )

    result = run('-c', USE, target)
    assert result.returncode == 0, result.stderr
    configs = [name for name in project_files() if name.startswith('configs/')]
    configs = [name for name in configs if name.endswith('.py') and '_base_' not in name]
    assert result.stdout.split()[-1] == str(len(configs))
    result = run(target / 'mmdmformer/.mim/tools/test.py', '--help')
    assert result.returncode == 0, result.stderr
    assert '--cfg-options' in result.stdout


def test_editable_install_links_mim_to_the_checkout(built, tmp_path):
    source, _, _ = built
    build(source, 'editable', tmp_path / 'editable')
    mim = source / 'mmdmformer/.mim'
    for name in ('configs', 'tools'):
        assert (mim / name).is_symlink()
        assert (mim / name).resolve() == source / name
