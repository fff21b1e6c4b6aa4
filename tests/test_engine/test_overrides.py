# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""``--cfg-options``: settings are changed, and what would change nothing is refused."""

import argparse
import re

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmdmformer.engine.overrides import CfgOptions
from mmdmformer.engine.runtime import UsageError, read_config_file
from small_settings import MINI

CLASSIFIER = MINI / 'dmformer-nano_mini-imagenet.py'
DETECTOR = MINI / 'retinanet_dmformer-nano_fpn_mini-coco.py'
LOADERS = [f'{split}_dataloader' for split in ('train', 'val', 'test')]
TRAIN, VAL, TEST = (f'{loader}.dataset.pipeline' for loader in LOADERS)
OPTIMIZER = "optim_wrapper = dict(optimizer=dict(type='SGD', lr={}))\n"
MODEL = "model = dict(type='ToyModel', width={})\n"


def parse(*options):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    return parser.parse_args(['--cfg-options', *options]).cfg_options


def refusal(path, *options):
    with pytest.raises(UsageError) as refused:
        read_config_file(path, parse(*options))
    assert '\n' not in str(refused.value) and str(refused.value)[-1] in '.?'
    return str(refused.value)


@pytest.mark.parametrize(
    'config, option, places',
    [
        (CLASSIFIER, 'lr=1', ['optim_wrapper.optimizer.lr']),
        (CLASSIFIER, 'pretrained=w.pth', ['model.backbone.init_cfg.checkpoint']),
        (CLASSIFIER, 'data_root=/x', [f'{loader}.dataset.data_root' for loader in LOADERS]),
        (CLASSIFIER, 'num_workers=0', [f'{loader}.num_workers' for loader in LOADERS]),
        (CLASSIFIER, 'max_epochs=3', ['param_scheduler.1.end', 'train_cfg.max_epochs']),
        (CLASSIFIER, 'image_size=32',
         [f'{TRAIN}.1.scale', f'{VAL}.2.crop_size', f'{TEST}.2.crop_size',
          'tta_pipeline.1.transforms.1.0.crop_size']),
        (CLASSIFIER, 'train_pipeline.1.scale=32', [f'{TRAIN}.1.scale']),
        (CLASSIFIER, 'dataset.metainfo.classes=a,b',
         [f'{loader}.dataset.metainfo.classes' for loader in LOADERS]),
        (CLASSIFIER, 'loader.batch_size=3', [f'{loader}.batch_size' for loader in LOADERS]),
        (CLASSIFIER, 'vis_backends.0.type=TensorboardVisBackend',
         ['visualizer.vis_backends.0.type']),
        (DETECTOR, 'milestones=2,3', ['param_scheduler.1.milestones']),
        (DETECTOR, 'data_root=/x', [f'{loader}.dataset.data_root' for loader in LOADERS]
         + ['val_evaluator.ann_file', 'test_evaluator.ann_file']),
    ],
)  # fmt: skip
def test_variable_is_refused_with_the_settings_that_hold_its_value(config, option, places):
    key = option.partition('=')[0]
    sentence = refusal(config, option)
    assert sentence.startswith(f'--cfg-options {key} would change nothing, as ')
    named = re.search(r' has been read: set (.*)\.$', sentence)[1].split(', ')
    assert sorted(named) == sorted(places)


@pytest.mark.parametrize(
    'assignment, name',
    [
        ('width: int = 12', 'width'),
        ('width = other = 12', 'other'),
        ('width, other = 12, 13', 'width'),
        ('width = 4 * 3', 'width'),
        ("width = len('twelve' * 2)", 'width'),
    ],
    ids=['annotated', 'chained', 'unpacked', 'computed', 'called'],
)
def test_variable_may_be_assigned_in_any_way(assignment, name, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(f'{assignment}\n{MODEL.format(name)}')
    assert refusal(config, f'{name}=5').endswith(': set model.width.')


@pytest.mark.parametrize(
    'key, fix',
    [
        ('optimwrapper.optimizer.lr', 'did you mean optim_wrapper?'),
        ('nonsense', 'check the name.'),
        ('launcher', 'use --launcher.'),
        ('custom_imports.imports', 'change it in a config file.'),
        ('_base_', 'check the name.'),
        ('filename', 'check the name.'),
    ],
)
def test_what_nobody_reads_is_refused(key, fix):
    assert refusal(DETECTOR, f'{key}=x').endswith(fix)


@HOOKS.register_module()
class ReadingHook(Hook):
    def before_train(self, runner):
        return runner.cfg.get('patience', 3), runner.cfg.note


def test_what_a_hook_of_the_config_reads_is_a_setting(tmp_path):
    config = tmp_path / 'config.py'
    config.write_text("custom_hooks = [dict(type='ReadingHook')]\n")
    cfg = read_config_file(config, parse('patience=5', 'note=x', 'sync_bn=torch', 'compile=True'))
    assert (cfg.patience, cfg.note, cfg.sync_bn, cfg.compile) == (5, 'x', 'torch', True)
    config.write_text('custom_hooks = []\npatience = 3\n')
    assert 'patience is read by nobody' in refusal(config, 'patience=5')


@pytest.mark.parametrize(
    'base',
    [
        "'ba' + 'se.py'",
        'f\'{"base"}.py\'',
        "[f'{name}.py' for name in ('base', 'other')]",
        "['base.py'] + ['other.py']",
        "'mmdet::_base_/default_runtime.py'",
    ],
)
def test_base_may_be_any_expression(base, tmp_path):
    (tmp_path / 'base.py').write_text('lr = 0.1\n' + OPTIMIZER.format('lr'))
    (tmp_path / 'other.py').write_text('resume = False\n')
    child = tmp_path / 'child.py'
    child.write_text(f'_base_ = {base}\nmodel = dict(width=3)\n')
    cfg = read_config_file(child, parse('optim_wrapper.optimizer.lr=0.5', 'model.width=4'))
    expected = Config.fromfile(child)
    expected.merge_from_dict({'optim_wrapper.optimizer.lr': 0.5, 'model.width': 4})
    assert cfg.to_dict() == expected.to_dict()


def test_templates_of_a_file_are_expanded(tmp_path):
    (tmp_path / 'base.py').write_text('lr = 0.1\n')
    child = tmp_path / 'child.py'
    child.write_text("_base_ = 'base.py'\nwork_dir = '{{ fileBasenameNoExtension }}'\n")
    with child.open('a') as file:
        file.write(OPTIMIZER.format('{{ _base_.lr }}'))
    assert read_config_file(child, parse('resume=True')).work_dir == 'child'
    assert refusal(child, 'lr=0.5').endswith(': set optim_wrapper.optimizer.lr.')


def test_comma_makes_a_list_which_no_path_is():
    cfg = read_config_file(DETECTOR, parse('val_evaluator.metric=bbox,segm'))
    assert cfg.val_evaluator.metric == ['bbox', 'segm']
    key = 'train_dataloader.dataset.data_root'
    assert refusal(DETECTOR, f'{key}=/a, b/c') == (
        f"--cfg-options {key} is a list, ['/a', 'b/c'], because of its comma, and a path in "
        f'{DETECTOR}: put a path with a comma into a config file.'
    )


@pytest.mark.parametrize('key', ['work_dir', 'model.backbone.arch', 'x'])
@pytest.mark.parametrize('value', ['{{$X:"*len(open(1))#}}', "'+{{fileDirname}}", '{{{{'])
def test_templates_in_options_are_refused(key, value):
    """mmengine would expand them, as code, when it reads the config that a run dumps."""
    with pytest.raises(argparse.ArgumentError, match='has a template, {{: put it into a config'):
        parse(f'{key}={value}')


@pytest.mark.parametrize(
    'code', ['__import__("os").mkdir("mark")', "'+__import__('os').mkdir('mark')+'", '\\']
)
def test_values_are_never_code(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = read_config_file(CLASSIFIER, parse(f'work_dir={code}'))
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').work_dir == cfg.work_dir
    assert not (tmp_path / 'mark').exists()


@pytest.mark.parametrize('name', ['os.system', '"os.system"', 'builtins.eval', '[os.system]', '1'])
@pytest.mark.parametrize('key', ['type', 'model.type', 'param_scheduler.0.type'])
def test_options_name_no_code_by_its_path(key, name):
    with pytest.raises(argparse.ArgumentError, match='names code outside of the toolboxes: put it'):
        parse('resume=True', f'{key}={name}')
    for allowed in ('AdamW', 'mmdet.CocoDataset', 'mmdmformer.datasets.coco.CocoDataset'):
        assert parse(f'{key}={allowed}') == {key: allowed}
