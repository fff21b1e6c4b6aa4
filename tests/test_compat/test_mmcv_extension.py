# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The bridge beside a compiled mmcv that works, does not load, or was built without CUDA.

A Python module on mmcv's path stands in for the compiled one.
"""

import mmdmformer  # noqa: F401  (makes mmcv.ops importable, hence first)

# isort: split
import importlib
import sys
import warnings

import mmcv.ops
import pytest
import torch

from mmdmformer.compat import environment, mmcv_ops
from mmdmformer.compat.operators.common import how_to_build

COMPILED = """
def nms(boxes, scores, iou_threshold, offset):
    return boxes.new_zeros(1, dtype=int)

def softnms(*args, **kwargs):
    raise RuntimeError('softnms_impl: implementation for device cuda:0 not found.')

nms_match = nms_rotated = nms_quadri = softnms

def get_compiling_cuda_version():
    return {cuda!r}
"""
UNDEFINED_SYMBOL = "raise ImportError('_ext.so: undefined symbol: _ZN2at4_ops10zeros_like4callE.')"
BOXES = torch.tensor([[0.0, 0, 4, 4], [9, 9, 12, 12]])
SCORES = torch.tensor([0.9, 0.8])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Give mmcv an extension of the given source, not imported yet."""
    monkeypatch.setattr(mmcv, '__path__', [str(tmp_path)])
    monkeypatch.setattr(mmcv, '_ext', None, raising=False)
    monkeypatch.delitem(sys.modules, mmcv_ops.EXT_NAME)
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)

    def write(source):
        (tmp_path / '_ext.py').write_text(source)
        importlib.invalidate_caches()
        return tmp_path / '_ext.py'

    return write


@pytest.fixture
def import_nms(monkeypatch):
    """Import ``mmcv.ops.nms`` afresh, so that it takes the extension that is there now."""

    def import_module():
        monkeypatch.setattr(mmcv.ops, 'nms', mmcv.ops.nms)
        monkeypatch.delitem(sys.modules, 'mmcv.ops.nms')
        return importlib.import_module('mmcv.ops.nms')

    return import_module


def fill_and_replace():
    mmcv_ops.fill_gap()
    mmcv_ops.replace_cpu_build()


def install():
    """Whether the bridge serves, and the warnings; a second call must change nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        fill_and_replace()
        extension = sys.modules[mmcv_ops.EXT_NAME]
        fill_and_replace()
        assert sys.modules[mmcv_ops.EXT_NAME] is extension is mmcv._ext
    return isinstance(extension, mmcv_ops._Bridge), [str(w.message) for w in caught]


def warning(fault):
    return (
        f"mmcv's compiled operators do not work with torch {torch.__version__} ({fault}) and give "
        f"way to torchvision's; {how_to_build()}."
    )


def test_no_extension(place, import_nms):
    assert install() == (True, [])
    assert import_nms().nms(BOXES, SCORES, 0.5)[1].tolist() == [0, 1]


@pytest.mark.parametrize(('cuda', 'gpu'), [('12.8', True), ('not available', False)])
def test_a_working_extension_is_left_alone(place, import_nms, monkeypatch, cuda, gpu):
    """One without CUDA works as well where torch sees no GPU."""
    file = place(COMPILED.format(cuda=cuda))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: gpu)
    assert install() == (False, [])
    assert sys.modules['mmcv._ext'].__file__ == str(file)
    assert import_nms().nms(BOXES, SCORES, 0.5)[1].tolist() == [0]


def test_an_extension_that_does_not_load_is_replaced(place, import_nms):
    place(UNDEFINED_SYMBOL)
    fault = '_ext.so: undefined symbol: _ZN2at4_ops10zeros_like4callE'
    assert install() == (True, [warning(fault)])
    assert import_nms().nms(BOXES, SCORES, 0.5)[1].tolist() == [0, 1]


@pytest.mark.parametrize('imported', [True, False])
def test_an_extension_without_cuda_gives_way_on_a_gpu(place, import_nms, monkeypatch, imported):
    """Also when mmcv.ops was imported before, as a toolbox's own tools do."""
    place(COMPILED.format(cuda='not available'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    before = import_nms() if imported else None
    mmcv_ops.fill_gap()  # which is all that `import mmdmformer` does
    assert import_nms().nms(BOXES, SCORES, 0.5)[1].tolist() == [0]
    serves, messages = install()
    assert serves and messages == [warning('built without CUDA')]
    module = before or import_nms()
    assert module.nms(BOXES, SCORES, 0.5)[1].tolist() == [0, 1]
    assert module.soft_nms(BOXES, SCORES)[1].tolist() == [0, 1]


def test_another_module_that_is_missing_is_not_hidden(place):
    place('import no_such_module')
    with pytest.raises(ModuleNotFoundError, match='no_such_module'):
        mmcv_ops.fill_gap()


def test_operators_say_that_torchvision_is_missing(monkeypatch, request):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    environment.load_torchvision_operators.cache_clear()
    request.addfinalizer(environment.load_torchvision_operators.cache_clear)
    with pytest.raises(ImportError) as error:
        mmcv_ops.OPERATORS['nms'](BOXES, SCORES, 0.5, 0)
    assert str(error.value) == (
        "mmcv operator 'nms' is served by torchvision, which is not installed; install the one "
        'that fits with '
        f'`pip install torch=={torch.__version__.split("+")[0]} torchvision`.'
    )
