# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What runtimes of requirements/runtimes.txt make of our networks is what the toolboxes predict."""

import copy
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / 'tests/test_deploy'))
from test_export import KINDS, SIZES, built, compare  # noqa: E402, F401  (built is a fixture)

from mmdmformer.deploy import executorch_export, int8, ncnn_export, verify  # noqa: E402
from mmdmformer.deploy.formats import FORMATS  # noqa: E402

NEEDED = {'.xml': ['openvino'], '.param': ['ncnn', 'pnnx'], '.pte': ['executorch']}
WITHOUT_BOXES = [kind for kind in KINDS if kind != 'boxes']
CAN = {'.xml': list(KINDS), '.param': WITHOUT_BOXES, '.pte': WITHOUT_BOXES}
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
    if suffix in ('.param', '.pte') and network.divisor != 1:  # so it must be exported without
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
        ('boxes', 'has no operator for the choice of boxes: write the maps of the head with'),
        ('head', 'cannot pad to multiples of 32 pixels: test with pictures of such sides'),
    ],
)
@pytest.mark.parametrize('suffix', ['.param', '.pte'])
def test_what_small_runtimes_cannot(suffix, kind, message, form, built, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match=f'{form.runtime} {message}'):
        form.export(built(kind)[-1], tmp_path / f'network{suffix}')
    assert not list(tmp_path.iterdir())


# ExecuTorch


def test_xnnpack_runs_all_but_the_norms(built, tmp_path):  # noqa: F811
    """Each other operator outside cuts the network into one more part of XNNPACK's."""
    pytest.importorskip('executorch', reason='make runtimes installs it')
    file = tmp_path / 'network.pte'
    network = built('classifier')[-1]
    executorch_export.export(network, file, dict(task='a'))
    about = json.loads(file.with_suffix('.json').read_text())
    changes = about['not_delegated'].pop('dim_order_ops._to_dim_order_copy')
    assert about['task'] == 'a' and about['precision'] == 'f32' and changes <= 5
    assert about['not_delegated'] == {'aten.native_layer_norm': 4, 'aten.view_copy': 1}
    run = executorch_export.load(file)
    for height, width in ((63, 64), (64, 1345)):
        with pytest.raises(ValueError, match=f'of {height}x{width} pixels: give sides of 64 to'):
            run(torch.zeros(1, 3, height, width))


@pytest.mark.parametrize('rows, columns, dilation', [(7, 7, 3), (7, 7, 1), (3, 11, 2)])
def test_narrow_convolutions_are_the_wide_one(rows, columns, dilation):
    padding = (rows // 2 * dilation, columns // 2 * dilation)
    conv = torch.nn.Conv2d(
        6, 6, (rows, columns), padding=padding, dilation=dilation, groups=6
    ).double()
    x = torch.rand(2, 6, 20, 31, dtype=torch.float64)
    assert executorch_export.NarrowConvolutions.fits(conv)
    narrow = executorch_export.NarrowConvolutions(conv)
    assert max(part.weight[0].numel() for part in narrow.parts) <= 25
    torch.testing.assert_close(narrow(x), conv(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    'settings',
    [
        dict(kernel_size=5, padding=2, groups=6),  # small enough
        dict(kernel_size=7, padding=3),  # not depthwise
        dict(kernel_size=7, padding=3, stride=2, groups=6),
        dict(kernel_size=7, padding=0, groups=6),  # the parts would differ in size
        dict(kernel_size=11, padding=5, groups=6),  # three columns are too many, too
    ],
)
def test_other_convolutions_stay(settings):
    conv = torch.nn.Conv2d(6, 6, **settings)
    assert not executorch_export.NarrowConvolutions.fits(conv)
    module = torch.nn.Sequential(conv)
    assert executorch_export.delegable(module)[0] is conv
