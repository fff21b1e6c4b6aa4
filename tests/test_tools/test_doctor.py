# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The doctor, on machines with and without each data set."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch

from mmdmformer import doctor
from mmdmformer.compat import environment, mmcv_ops, report
from mmdmformer.datasets.layouts import ADE20K, COCO, IMAGENET, LAYOUTS, MINI, Files, Instances
from mmdmformer.doctor import examine

REPOSITORY = Path(__file__).parents[2]
DOCTOR = REPOSITORY / 'tools/doctor.py'
CONFIGS = REPOSITORY / 'configs/dmformer'
CLASSIFIER = CONFIGS / 'dmformer-s_8xb128_in1k.py'
DETECTOR = CONFIGS / 'mask-rcnn_dmformer-s_fpn_8xb2-1x_coco.py'
SEGMENTOR = CONFIGS / 'dmformer-s_upernet_8xb2-160k_ade20k-512x512.py'
MINI_CLASSIFIER = REPOSITORY / 'configs/mini/dmformer-nano_mini-imagenet.py'
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='expects a machine without GPU')

# The same data sets with a handful of files.
SMALL = {
    layout.name: layout
    for layout in (
        replace(IMAGENET, parts=(Files('train', 6, classes=3), Files('val', 3, classes=3))),
        replace(
            COCO,
            parts=(
                Files('train2017', 4),
                Files('val2017', 2),
                Instances('annotations/instances_train2017.json', 'train2017', 4),
                Instances('annotations/instances_val2017.json', 'val2017', 2),
            ),
        ),
        replace(ADE20K, parts=tuple(replace(part, count=2) for part in ADE20K.parts)),
    )
}
LAYOUTS_HERE = (*SMALL.values(), MINI)
CONFIG_OF = {'ImageNet-1K': CLASSIFIER, 'COCO 2017': DETECTOR, 'ADE20K': SEGMENTOR}


def make(layout, root):
    """Make empty files as a layout says, and annotations without objects."""
    for part in layout.parts:
        if isinstance(part, Instances):
            images = [dict(id=i, file_name=f'{i}.jpg') for i in range(part.count)]
            path = root / part.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dict(images=images, annotations=[], categories=[])))
            continue
        for i in range(part.count):
            folder = root / part.folder / (f'n{i % part.classes}' if part.classes else '')
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f'{i}{part.suffixes[0]}').touch()
    (root / 'README.txt').touch()  # other files do not matter


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(report, section):
    return {line.name: line for line in report.sections[section]}


def data_lines(**options):
    return lines(examine(layouts=LAYOUTS_HERE, quiet=True, **options), 'Data')


@pytest.mark.parametrize('name', SMALL)
def test_each_data_set_is_found_beside_others_that_are_missing(name, here):
    make(SMALL[name], here / SMALL[name].root)
    found = data_lines()
    assert list(found) == [*SMALL, 'built-in data']
    for other, line in found.items():
        assert line.good == (other == name)
        assert ('does not exist; make it with `python ' in line.text) == (other != name)
    report = examine(str(CONFIG_OF[name]), layouts=LAYOUTS_HERE, quiet=True)
    assert report.obstacle is None
    for other in set(SMALL) - {name}:
        report = examine(str(CONFIG_OF[other]), layouts=LAYOUTS_HERE, quiet=True)
        assert report.obstacle == (
            f'data directory {here / SMALL[other].root} does not exist: make it with '
            f'`{SMALL[other].prepare}`, link it there, or change data_root in the config.'
        )


def cut(path):
    path.write_text(path.read_text()[:-20])


@pytest.mark.parametrize(
    ('name', 'spoil', 'complaint'),
    [
        ('ImageNet-1K', lambda r: (r / 'train/n1/1.jpeg').unlink(), 'train holds 5 files, not 6'),
        ('ImageNet-1K', lambda r: (r / 'train/n1/1.txt').touch(), None),
        ('ImageNet-1K', lambda r: (r / 'train/n1/7.JPEG').touch(), 'train holds 7 files, not 6'),
        ('ImageNet-1K', lambda r: (r / 'val/n3').mkdir(), 'val has 4 class folders, not 3'),
        ('ImageNet-1K', lambda r: shutil.rmtree(r / 'val'), 'val is missing'),
        # as unpacked, without the converter
        ('ImageNet-1K', lambda r: [(shutil.rmtree(r / f'val/n{i}'), (r / f'val/{i}.JPEG').touch())
                                   for i in range(3)], 'val has 0 class folders, not 3'),
        ('COCO 2017', lambda r: (r / 'val2017/0.jpeg').unlink(), 'val2017 holds 1 files, not 2'),
        ('COCO 2017', lambda r: shutil.rmtree(r / 'annotations'),
         'annotations/instances_train2017.json is missing; annotations/instances_val2017.json is '
         'missing'),
        ('COCO 2017', lambda r: cut(r / 'annotations/instances_val2017.json'),
         'annotations/instances_val2017.json ends in the middle'),
        ('COCO 2017', lambda r: (r / 'annotations/instances_val2017.json').write_text(''),
         'annotations/instances_val2017.json is empty'),
        ('COCO 2017', lambda r: shutil.copy(r / 'annotations/instances_train2017.json',
                                            r / 'annotations/instances_val2017.json'),
         'annotations/instances_val2017.json describes 4 images, not 2'),
        ('ADE20K', lambda r: (r / 'annotations/training/0.png').unlink(),
         'annotations/training holds 1 files, not 2'),
        ('ADE20K', lambda r: (r / 'annotations/training/0.png').rename(
            r / 'annotations/training/0.jpg'), 'annotations/training holds 1 files, not 2'),
        ('ADE20K', lambda r: shutil.rmtree(r / 'images/validation'),
         'images/validation is missing'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_data_set_is_said(name, spoil, complaint, here):
    layout = SMALL[name]
    make(layout, here / 'sets')  # where the config, not the default, says
    spoil(here / 'sets')
    loaders = [f'{split}_dataloader.dataset.data_root=sets' for split in ('train', 'val', 'test')]
    options = ['--cfg-options', *loaders]
    if name == 'COCO 2017':
        ann_file = 'sets/annotations/instances_val2017.json'
        options += [f'{split}_evaluator.ann_file={ann_file}' for split in ('val', 'test')]
    report = examine(str(CONFIG_OF[name]), options, layouts=LAYOUTS_HERE, quiet=True)
    line = report.sections['Data'][-1]
    assert line.name == name and line.good == (complaint is None)
    if complaint is None:
        assert report.obstacle is None
        return
    assert line.text == f'sets is not complete: {complaint}'
    assert report.obstacle == (
        f'{name} in {here}/sets is not complete ({complaint}): complete it with '
        f'`{layout.prepare} --out sets`.'
    )


def test_the_layouts_are_those_of_the_published_sets():
    assert [layout.name for layout in LAYOUTS] == [*SMALL, 'built-in data']
    counts = {
        part.folder: (part.count, part.classes)
        for layout in LAYOUTS for part in layout.parts if isinstance(part, Files)
    }  # fmt: skip
    assert counts == {
        'train': (1_281_167, 1000), 'val': (50_000, 1000),
        'train2017': (118_287, 0), 'val2017': (5_000, 0),
        'images/training': (20_210, 0), 'images/validation': (2_000, 0),
        'annotations/training': (20_210, 0), 'annotations/validation': (2_000, 0),
    }  # fmt: skip
    for layout in LAYOUTS:
        assert (REPOSITORY / layout.prepare.split()[1]).is_file()


def test_built_in_data_are_checked_by_their_manifest(here, mini_data):
    shutil.copytree(mini_data, here / 'data/mini')
    assert data_lines()['built-in data'].good
    image = sorted((here / 'data/mini/imagenet/train').rglob('*.png'))[0]
    image.write_bytes(image.read_bytes()[:-1])
    (here / 'data/mini/coco/annotations/instances_val2017.json').unlink()
    line = data_lines()['built-in data']
    assert not line.good and '2 of its ' in line.text and 'missing or changed' in line.text
    (here / 'data/mini/manifest.json').write_text('[]')
    assert data_lines()['built-in data'].text.endswith('manifest.json cannot be read')


def own_data(here, **changes):
    """A config with data of the user's own, of which everything is there."""
    (here / 'mine/images').mkdir(parents=True)
    (here / 'mine/train.json').touch()
    dataset = dict(type='CocoDataset', metainfo=dict(classes=('cat',)), data_root='mine')
    dataset.update(dict(ann_file='train.json', data_prefix=dict(img='images')), **changes)
    loader = dict(dataset=dict(_delete_=True, **dataset))
    path = here / 'own.py'
    path.write_text(
        f'_base_ = {str(DETECTOR)!r}\n'
        f'train_dataloader = val_dataloader = test_dataloader = {loader!r}\n'
        "val_evaluator = dict(ann_file='mine/train.json')\ntest_evaluator = val_evaluator\n"
    )
    return str(path)


def test_data_of_the_users_own_have_no_known_counts(here):
    config = own_data(here)
    assert examine(config, layouts=LAYOUTS_HERE, quiet=True).obstacle is None
    (here / 'mine/images').rmdir()
    assert examine(config, layouts=LAYOUTS_HERE, quiet=True).obstacle == (
        f'{here}/mine/images, which CocoDataset reads, does not exist: check data_root, ann_file '
        'and data_prefix in the config.'
    )
    (here / 'mine/images').mkdir()
    options = ['--cfg-options', 'val_evaluator.ann_file=other.json']
    assert examine(config, options, layouts=LAYOUTS_HERE, quiet=True).obstacle == (
        f'{here}/other.json, which CocoMetric reads, does not exist: check val_evaluator.ann_file.'
    )


def test_other_annotations_of_coco_need_their_own_files_alone(here):
    config = own_data(here, metainfo={}, type='mmpose.CocoDataset')
    assert examine(config, layouts=LAYOUTS_HERE, quiet=True).obstacle is None
    (here / 'mine/train.json').unlink()
    obstacle = examine(config, layouts=LAYOUTS_HERE, quiet=True).obstacle
    assert f'{here}/mine/train.json, which CocoDataset reads, does not exist' in obstacle


@pytest.fixture
def complete(here):
    """A machine with all data sets."""
    for layout in SMALL.values():
        make(layout, here / layout.root)
    return here


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        (['--amp'], 'mixed precision (--amp, AmpOptimWrapper) needs a GPU and none is visible'),
        (['--cfg-options', 'model.backbone.init_cfg.checkpoint=no.pth'],
         'checkpoint no.pth does not exist'),
        (['--cfg-options', 'load_from=no.pth'], 'checkpoint no.pth does not exist'),
        (['--resume', 'no.pth'], 'checkpoint no.pth does not exist'),
        (['--cfg-options', 'train_dataloader.dataset.data_root=no'],
         'no does not exist: make it with `python tools/dataset_converters/coco.py ARCHIVES --out'),
    ],
)  # fmt: skip
def test_config_that_cannot_train_is_refused(options, reason, complete):
    obstacle = examine(str(DETECTOR), options, layouts=LAYOUTS_HERE, quiet=True).obstacle
    assert reason in obstacle and obstacle.endswith('.') and '\n' not in obstacle


def test_pretrained_file_that_exists_is_fine(complete):
    (complete / 'w.pth').touch()
    options = ['--cfg-options', 'model.backbone.init_cfg.checkpoint=w.pth']
    assert examine(str(DETECTOR), options, layouts=LAYOUTS_HERE, quiet=True).obstacle is None


def test_missing_toolbox_is_named(complete, monkeypatch):
    monkeypatch.setattr(environment, 'find_spec', lambda name: None)
    obstacle = examine(str(DETECTOR), layouts=LAYOUTS_HERE, quiet=True).obstacle
    assert "default_scope 'mmdet' needs a toolbox that is not installed" in obstacle


def test_package_that_is_missing_is_a_fault(monkeypatch):
    monkeypatch.setattr(report, 'installed_versions', lambda: dict(mmseg=None, mmdet='3.3.0'))
    lines = {line.name: line for line in doctor._installed()}
    assert (lines['mmseg'].text, lines['mmseg'].good) == ('not installed', False)
    assert (lines['mmdet'].text, lines['mmdet'].good) == ('3.3.0', None)


def test_command_and_batch_are_those_of_this_machine(complete, monkeypatch):
    options = ['--cfg-options', 'train_dataloader.batch_size=2']
    train = lines(examine(str(DETECTOR), options, layouts=LAYOUTS_HERE, quiet=True), 'To train')
    assert train['on the CPU'].text == (
        f'python tools/train.py {DETECTOR} --cfg-options train_dataloader.batch_size=2'
    )
    assert 'global batch of 16 images' in train['batch'].text and 'has 2' in train['batch'].text
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 8)
    train = lines(examine(str(DETECTOR), options, layouts=LAYOUTS_HERE, quiet=True), 'To train')
    assert {name: line.text for name, line in train.items() if name != 'with Slurm'} == {
        'here': f'tools/dist_train.sh {DETECTOR} 8 --cfg-options train_dataloader.batch_size=2'
    }
    programs = complete / 'bin'
    programs.mkdir()
    (programs / 'srun').touch(mode=0o755)
    monkeypatch.setenv('PATH', str(programs))
    train = lines(examine(layouts=LAYOUTS_HERE, quiet=True), 'To train')
    assert train['here'].text == 'tools/dist_train.sh CONFIG 8'
    assert train['with Slurm'].text == ('GPUS=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG')


# The path of the operators


@pytest.mark.skipif(
    not isinstance(sys.modules[mmcv_ops.EXT_NAME], mmcv_ops._Bridge), reason='mmcv is compiled'
)
def test_operators_of_the_bridge(here, monkeypatch):
    import mmcv

    words, work = report.operators()
    assert work and words == 'served by torchvision and torch, as mmcv has no compiled operators'

    monkeypatch.setattr(mmcv, '__path__', [str(here)])
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)
    (here / '_ext.py').write_text("raise ImportError('undefined symbol: _ZN2at.')")
    words, work = report.operators()
    assert work and f'torch {torch.__version__} (undefined symbol: _ZN2at)' in words
    (here / '_ext.py').write_text('pass #')  # another size: Python looks anew
    words, work = report.operators()
    assert work and words.endswith('were built without CUDA')

    monkeypatch.setattr(environment, 'load_torchvision_operators', lambda: False)
    words, work = report.operators()
    assert not work and words.startswith('broken: ')
    make(SMALL['COCO 2017'], here / 'data/coco')
    obstacle = examine(str(DETECTOR), layouts=LAYOUTS_HERE, quiet=True).obstacle
    assert obstacle.startswith('mmdet needs the operators of mmcv.ops, which are broken: ')


def test_compiled_operators(monkeypatch):
    class Compiled:
        @staticmethod
        def get_compiling_cuda_version():
            return '12.8'

    monkeypatch.setitem(sys.modules, mmcv_ops.EXT_NAME, Compiled)
    assert report.operators() == ("mmcv's own, compiled (CUDA 12.8)", True)


# The tool


def run(python, *args, cwd):
    result = python(DOCTOR, *args, cwd=cwd, COLUMNS='240')
    assert 'Traceback' not in result.stderr, result.stderr
    return result.returncode, result.stdout, result.stderr


def test_tool_prints_one_page(bare_python, tmp_path):
    code, page, errors = run(bare_python, cwd=tmp_path)
    assert (code, errors) == (0, '')
    assert len(page.splitlines()) < 40
    titles = [line.strip() for line in page.splitlines() if not line.startswith(' ')]
    assert titles == ['Installed', 'GPUs', 'Data', 'To train']
    for words in (
        torch.__version__, 'no GPU is visible', report.stack(), report.operators()[0],
        sys.version.split()[0], cv2.__version__, 'python tools/train.py CONFIG',
        *(layout.prepare for layout in LAYOUTS),
    ):  # fmt: skip
        assert words in page
    for version in report.installed_versions().values():
        assert version is None or version in page


def test_tool_exits_with_the_reason_unless_the_config_can_train(bare_python, mini_data, tmp_path):
    code, page, errors = run(bare_python, MINI_CLASSIFIER, cwd=tmp_path)
    assert code == 1 and 'Installed' in page
    assert errors.startswith(f'error: data directory {tmp_path}/data/mini/imagenet does not exist')
    assert len(errors.splitlines()) == 1

    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/mini').symlink_to(mini_data)
    code, page, errors = run(bare_python, MINI_CLASSIFIER, cwd=tmp_path)
    assert (code, errors) == (0, '')
    assert 'data/mini is complete: every file as its manifest says' in page

    make(SMALL['ImageNet-1K'], tmp_path / 'data/imagenet')
    code, page, errors = run(bare_python, CLASSIFIER, cwd=tmp_path)
    reason = 'train has 3 class folders, not 1,000; val has 3 class folders, not 1,000'
    assert code == 1
    assert f'data/imagenet is not complete: {reason}' in page
    assert errors == (
        f'error: ImageNet-1K in {tmp_path}/data/imagenet is not complete ({reason}): complete it '
        'with `python tools/dataset_converters/imagenet.py ARCHIVES`.\n'
    )


def test_tool_refuses_options_that_training_does_not_have(bare_python, tmp_path):
    code, _, errors = run(bare_python, MINI_CLASSIFIER, '--ampp', cwd=tmp_path)
    assert code == 2 and 'unrecognized arguments: --ampp' in errors


def test_tool_says_what_is_wrong_with_the_environment(tmp_path):
    """Here: no torch, as in a Python without packages."""
    environ = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, '-S', str(DOCTOR)], cwd=tmp_path, env=environ, capture_output=True,
        text=True,
    )  # fmt: skip
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith('error: mmdmformer needs torch, which is not installed')


@pytest.mark.skipif(
    not isinstance(sys.modules[mmcv_ops.EXT_NAME], mmcv_ops._Bridge), reason='mmcv is compiled'
)
def test_an_operator_that_is_not_served_is_named_before_training(here):
    options = ['--cfg-options', 'model.roi_head.bbox_roi_extractor.roi_layer.type=RoIPool']
    obstacle = examine(str(DETECTOR), options, layouts=LAYOUTS_HERE, quiet=True).obstacle
    assert obstacle.startswith(
        "RoIPool, which the config's model names, calls mmcv's roi_pool_backward and "
        'roi_pool_forward, which neither torchvision nor torch serves: build them for this torch '
    )
    options = ['--cfg-options', 'model.test_cfg.rcnn.nms.type=nms_quadri']
    obstacle = examine(str(DETECTOR), options, layouts=LAYOUTS_HERE, quiet=True).obstacle
    assert obstacle.startswith("nms_quadri, which the config's model names, calls mmcv's nms_quadr")


@pytest.mark.skipif(
    not isinstance(sys.modules[mmcv_ops.EXT_NAME], mmcv_ops._Bridge), reason='mmcv is compiled'
)
def test_operators_are_found_through_what_calls_them():
    import mmcv.ops
    import mmdet.models  # noqa: F401 (registers them)
    from mmdet.registry import MODELS, TASK_UTILS

    class Pool(mmcv.ops.RoIPool):
        pass

    assert report.missing_operators(Pool) == {'roi_pool_forward', 'roi_pool_backward'}
    for served in (mmcv.ops.soft_nms, mmcv.ops.DeformConv2dPack, mmcv.ops.batched_nms):
        assert report.missing_operators(served) == set()
    for kind in [*MODELS.module_dict.values(), *TASK_UTILS.module_dict.values()]:
        # All of mmdet is served but for lane detection, which the forks alone have.
        expected = {'line_nms_forward'} if kind.__name__ == 'CLRHead' else set()
        assert report.missing_operators(kind) == expected, kind
