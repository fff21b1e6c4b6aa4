# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import argparse

import pytest
from mmengine.config import Config

from mmdmformer.engine.variables import CfgOptions, read_config

BASE = """
lr = 0.1
scale = (64, 64)
steps = [3, 2 * 3]
optimizer = dict(type='SGD', lr=lr)
pipeline = [dict(type='Resize', scale=scale)]
"""
LEAF = """
_base_ = ['base.py', 'other.py']
root = None
pipeline = _base_.pipeline
pipeline[0]['scale'] = _base_.scale
optimizer = dict(momentum=_base_.lr + 0.8)
data = dict(root=root, file=f'{root}/list.txt')
"""


@pytest.fixture
def leaf(tmp_path):
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'other.py').write_text('other = 1\n')
    (tmp_path / 'leaf.py').write_text(LEAF)
    return tmp_path / 'leaf.py'


def test_without_variables_the_config_is_mmengines(leaf):
    assert read_config(leaf, {}).pretty_text == Config.fromfile(leaf).pretty_text


def test_variables_reach_every_place_of_file_and_bases(leaf):
    cfg = read_config(leaf, dict(lr=0.5, scale=(8, 9), root='there', unknown=1))
    assert cfg.lr == 0.5
    assert cfg.optimizer == dict(type='SGD', lr=0.5, momentum=1.3)
    assert cfg.pipeline == [dict(type='Resize', scale=(8, 9))]
    assert cfg.data == dict(root='there', file='there/list.txt')
    assert cfg.other == 1
    assert 'unknown' not in cfg
    assert cfg.filename == str(leaf)


def test_only_literals_are_variables(leaf):
    names = dict(steps=[1], pipeline=[], optimizer=None, lr=0.5)
    cfg, plain = read_config(leaf, names), Config.fromfile(leaf)
    assert (cfg.steps, cfg.pipeline) == (plain.steps, plain.pipeline)
    assert cfg.optimizer.lr == 0.5


def test_files_are_found_from_another_folder(leaf, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp('elsewhere'))
    assert read_config(leaf, dict(lr=0.5)).optimizer.lr == 0.5
    monkeypatch.chdir(leaf.parent)
    assert read_config('leaf.py', dict(lr=0.5)).optimizer.lr == 0.5


def test_templates_and_packaged_bases_are_left_alone(tmp_path):
    template = tmp_path / 'template.py'
    template.write_text("name = '{{ fileBasename }}'\nlr = 0.1\n")
    cfg = read_config(template, dict(lr=0.5))
    assert (cfg.name, cfg.lr) == ('template.py', 0.1)

    packaged = tmp_path / 'packaged.py'
    packaged.write_text("_base_ = 'mmdet::_base_/default_runtime.py'\nlr = 0.1\n")
    cfg = read_config(packaged, dict(lr=0.5, log_level='DEBUG'))
    assert (cfg.lr, cfg.log_level) == (0.5, 'INFO')
    assert cfg.default_scope == 'mmdet'


def test_values_are_never_code(tmp_path):
    """mmengine pastes what a template holds into the config's text, which two values can use."""
    mark = tmp_path / 'mark'
    (tmp_path / 'leaf.py').write_text(
        f"mark = {str(mark)!r}\na = 'x'\nb = 'y'\nc = dict(a=a, b=b)\n"
    )
    # As a pattern, the content of the first template matches that of the second.
    values = dict(a='{{$X:"*len(str(open(mark,chr(119))))#}}', b="'{{$X:lenstropenmark,chr119#}}")
    cfg = read_config(tmp_path / 'leaf.py', values)
    assert not mark.exists()
    assert (cfg.a, cfg.b, cfg.c) == (values['a'], values['b'], values)
    for text in ('{{fileDirname}}', '{{ _base_.a }}', '{{{{', "{'{{$HOME:'", '\\{{'):
        assert read_config(tmp_path / 'leaf.py', dict(a=text)).c.a == text


def test_numbers_that_python_writes_as_names(leaf):
    cfg = read_config(leaf, dict(lr=float('inf'), scale=(1, [float('-inf'), float('nan')])))
    assert cfg.optimizer.lr == float('inf')
    assert str(cfg.pipeline[0].scale) == '(1, [-inf, nan])'


@pytest.mark.parametrize('name', ['os.system', '"os.system"', 'builtins.eval', '[os.system]', '1'])
@pytest.mark.parametrize('key', ['type', 'model.type', 'train_pipeline.0.type'])
def test_options_name_no_code_by_its_path(key, name):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    with pytest.raises(argparse.ArgumentError, match='names code outside of the toolboxes: put it'):
        parser.parse_args(['--cfg-options', 'lr=1', f'{key}={name}'])
    for allowed in ('AdamW', 'mmdet.CocoDataset', 'mmdmformer.datasets.coco.CocoDataset'):
        options = parser.parse_args(['--cfg-options', f'{key}={allowed}']).cfg_options
        assert options == {key: allowed}
