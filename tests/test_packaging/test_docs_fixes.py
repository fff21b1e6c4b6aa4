# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Every fix of docs/troubleshooting.md is tried by a test."""

import re
import subprocess
import sys
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path

import pytest
import torch
from matplotlib._tight_bbox import adjust_bbox
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from pytorch_grad_cam import GradCAM
from sklearn.manifold import TSNE

import mmdmformer
from mmdmformer import test as test_entry
from mmdmformer import train as train_entry

ROOT = Path(__file__).resolve().parents[2]
HERE = 'test_packaging/test_docs_fixes.py'
FIXES = {
    "`No module named 'mmcv._ext'`": 'test_plugin/test_stock_configs.py::'
    'test_stock_tool_tests_our_config_and_refuses_code',
    "A toolbox's own tool ends in a traceback": f'{HERE}::test_tools_that_replace_others_are_there',
    "`No module named 'pkg_resources'`": 'test_compat/test_packages.py::'
    'test_configs_of_packages_are_found',
    'Versions that exclude each other': 'test_compat/test_environment.py::'
    'test_torchvision_of_another_torch',
    '`X is not in the model registry`': 'test_plugin/test_stock_configs.py::'
    'test_stock_tool_trains_a_stock_config',
    "`cannot import name 'DMFormer' from 'mmdmformer' (unknown location)`": f'{HERE}::'
    'test_folder_above_the_checkout',
    '`Weights only load failed`': 'test_compat/test_safe_checkpoint.py::'
    'test_train_then_resume_then_load',
    'A pretrained backbone that was silently not loaded': 'test_checkpoints/test_pretrained.py::'
    'test_refuses_what_does_not_fit',
    '`unrecognized arguments: --local-rank`': f'{HERE}::test_both_spellings_are_accepted',
    '`Address already in use`': 'test_tools/test_launchers.py::'
    'test_two_jobs_at_the_same_time_train_with_two_processes_each',
    '`Expected to have finished reduction`, unused parameters': 'test_backbones/test_contract.py::'
    'test_outputs_and_no_unused_parameter',
    '`marked ready twice` with activation checkpointing': 'test_distributed/'
    'test_ddp_gradients.py::test_two_processes_give_the_gradients_of_one',
    'SyncBN without a GPU': 'test_engine/test_sync_batch_norm.py::test_two_processes_without_gpu',
    'A learning rate for other GPUs than there are': 'test_tools/test_train_test.py::'
    'test_training_writes_checkpoints_and_obeys_the_options',
    'NaN': 'test_reliability/test_finite.py::'
    'test_run_stops_with_the_names_and_keeps_its_checkpoint',
    'Slow dilated depthwise convolutions': 'test_benchmarks/test_operator_benchmark.py::'
    'test_operator_is_faster_than_three_convolutions',
    'Parameter counts that differ from the paper': 'test_benchmarks/test_paper_table.py::'
    'test_sizes_and_tables_are_up_to_date',
    'Results without training': 'test_checkpoints/test_pretrained.py::test_no_checkpoint_is_said',
    'Height or width that is no multiple of 32': 'test_backbones/test_contract.py::'
    'test_any_image_size',
    'ONNX export of custom operators': 'test_deploy/test_export.py::test_onnx',
    'Absolute paths in a config': 'test_configs/test_config_files.py::'
    'test_paths_are_relative_and_the_data_are_where_the_toolboxes_expect_them',
    'Images or annotations that cannot be read': 'test_datasets/test_bad_input.py::'
    'test_training_goes_on_and_logs_what_it_replaced',
}


def test_each_complaint_has_its_test():
    page = (ROOT / 'docs/troubleshooting.md').read_text()
    complaints = re.findall(r'^\*\*(.+?)\.?\*\*', page, re.M)
    assert sorted(complaints) == sorted(FIXES)


@pytest.mark.parametrize('complaint', FIXES)
def test_the_test_is_there(complaint):
    path, _, name = FIXES[complaint].partition('::')
    assert re.search(rf'^def {name}\(', (ROOT / 'tests' / path).read_text(), re.M)


def test_tools_that_replace_others_are_there():
    page = (ROOT / 'docs/troubleshooting.md').read_text()
    rows = re.findall(r"^\| (mm\w+)'s.* `(\w+/\w+\.py)` \|.*\| (.+) \|$", page, re.M)
    assert len(rows) == 9
    for toolbox, tool, instead in rows:
        assert (Path(find_spec(toolbox).origin).parent / '.mim/tools' / tool).is_file()
        for ours in re.findall(r'tools/[\w/]+\.py', instead):
            assert (ROOT / ours).is_file()


def test_what_those_tools_call_is_gone():
    assert 'use_cuda' not in signature(GradCAM).parameters
    assert 'n_iter' not in signature(TSNE).parameters
    assert signature(adjust_bbox).parameters['renderer'].default is Parameter.empty
    with pytest.raises(ValueError, match='cannot be both set'):
        get_model_complexity_info(torch.nn.Identity(), (3, 8, 8), inputs=torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize('spelling', ['--local-rank', '--local_rank'])
def test_both_spellings_are_accepted(spelling):
    for entry, checkpoint in ((train_entry, []), (test_entry, ['checkpoint.pth'])):
        options = entry._parser().parse_args(['config.py', *checkpoint, f'{spelling}=1'])
        assert options.local_rank == 1


@pytest.mark.skipif(
    ROOT not in Path(mmdmformer.__file__).parents, reason='the package is not that of the checkout'
)
def test_folder_above_the_checkout(tmp_path):
    """The folder of the checkout hides the package; elsewhere it is found."""
    (tmp_path / 'above').mkdir()
    (tmp_path / 'above/mmdmformer').symlink_to(ROOT)
    command = [sys.executable, '-c', 'from mmdmformer import DMFormer']
    result = subprocess.run(command, cwd=tmp_path / 'above', capture_output=True, text=True)
    assert "cannot import name 'DMFormer' from 'mmdmformer' (unknown location)" in result.stderr
    assert subprocess.run(command, cwd=tmp_path).returncode == 0


def test_imports_of_ones_own_replace_those_of_the_base(tmp_path):
    """So that the page says what to keep."""
    base = ROOT / 'configs/dmformer/dmformer-s_8xb128_in1k.py'
    own = "custom_imports = dict(imports=['json'])"
    (tmp_path / 'own.py').write_text(f'_base_ = {str(base)!r}\n{own}\n')
    bases, mine = (Config.fromfile(path).custom_imports for path in (base, tmp_path / 'own.py'))
    assert (bases.imports, mine.imports) == (['mmdmformer.prepared'], ['json'])
    assert (
        "imports=['mmdmformer.prepared', 'my_package']"
        in (ROOT / 'docs/troubleshooting.md').read_text()
    )
