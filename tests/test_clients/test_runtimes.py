# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What runtimes of requirements/runtimes.txt make of our networks is what the toolboxes predict."""

import copy
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / 'tests/test_deploy'))
from test_export import KINDS, SIZES, built, compare  # noqa: E402, F401  (built is a fixture)

from mmdmformer.deploy import int8, ncnn_export, verify  # noqa: E402
from mmdmformer.deploy.formats import FORMATS  # noqa: E402

NEEDED = {'.xml': ['openvino'], '.param': ['ncnn', 'pnnx']}
CAN = {'.xml': list(KINDS), '.param': [kind for kind in KINDS if kind != 'boxes']}
each_suffix = pytest.mark.parametrize('suffix', NEEDED)


@pytest.fixture
def form(suffix):
    for package in NEEDED[suffix]:
        pytest.importorskip(package, reason='make runtimes installs it')
    return FORMATS[suffix]


@pytest.mark.parametrize('suffix, kind', [(s, kind) for s, kinds in CAN.items() for kind in kinds])
def test_runtime(suffix, kind, form, built, tmp_path):  # noqa: F811
    *_, predict, network = built(kind)
    sizes, out = SIZES, tmp_path / f'network{suffix}'
    if suffix == '.param' and network.divisor != 1:  # so it must be exported without
        network = copy.deepcopy(network)
        network.divisor, sizes = 1, ((64, 96), (160, 128))  # as by pad_size_divisor=1
    form.export(network, out)
    assert sorted(tmp_path.iterdir()) == sorted(form.files(out))
    results = compare(predict, network, form.load(out), sizes)
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


# int8


@pytest.mark.parametrize('kind', ['classifier', 'UperNet'])
def test_int8_is_what_openvino_runs(kind, built, tmp_path):  # noqa: F811
    openvino = pytest.importorskip('openvino', reason='make runtimes installs it')
    pytest.importorskip('nncf', reason='make runtimes installs it')
    network, file = built(kind)[-1], tmp_path / 'int8.xml'
    images = torch.nn.functional.interpolate(verify.sample_photographs()[0][None], (64, 96))
    assert int8.quantize(network, file, [images], dict(task='a')) == []
    about = openvino.Core().read_model(file).get_rt_info('about').value
    assert about['task'] == 'a' and about['floating_point'] == '[]'
    settings = {'INFERENCE_PRECISION_HINT': about['precision']}
    compiled = openvino.Core().compile_model(file, 'CPU', settings)
    counts = Counter()
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        kind_of_layer, precision = info['layerType'].value, info['runtimePrecision'].value
        counts[kind_of_layer, precision in ('i8', 'u8')] += 1
    layers = Counter(type(m).__name__ for m in network.modules())
    assert counts['Convolution', True] == layers['Conv2d'] and not counts['Convolution', False]
    assert counts['FullyConnected', True] == layers['Linear']


# ncnn


class Odd(torch.nn.Module):
    """Does what pnnx cannot convert."""

    divisor = 1

    def __init__(self, function):
        super().__init__()
        self.function = function

    def example(self):
        return (torch.rand(1, 3, 64, 96),)

    def forward(self, images):
        return self.function(images)


@pytest.mark.parametrize(
    ('function', 'message'),
    [
        # Here pnnx ends with 0,
        (lambda x: torch.nn.functional.pad(x, (0, -x.shape[3] % 32)), 'ncnn has no F.pad, which'),
        # and here with an error, as its own torch has no LAPACK.
        (lambda x: torch.linalg.inv(x[..., :32, :32]), 'pnnx cannot convert the network'),
    ],
)
def test_what_pnnx_cannot_convert(function, message, tmp_path):
    pytest.importorskip('pnnx', reason='make runtimes installs it')
    with pytest.raises(ValueError, match=f'{message}.*: take another format'):
        ncnn_export.export(Odd(function), tmp_path / 'network.param')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('boxes', 'ncnn has no operator for the choice of boxes: write the maps of the head with'),
        ('head', 'ncnn cannot pad to multiples of 32 pixels: test with pictures of such sides'),
    ],
)
def test_what_ncnn_cannot(kind, message, built, tmp_path):  # noqa: F811
    pytest.importorskip('ncnn', reason='make runtimes installs it')
    with pytest.raises(ValueError, match=message):
        ncnn_export.export(built(kind)[-1], tmp_path / 'network.param')
    assert not list(tmp_path.iterdir())
