# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Absent data are named with the command that prepares them."""

from pathlib import Path

import pytest
from mmengine.registry import DATASETS, init_default_scope

from mmdmformer.datasets.bad_input import BadInputError
from mmdmformer.datasets.missing import missing_data_named
from mmdmformer.engine.runtime import read_config_file

REPOSITORY = Path(__file__).parents[2]
DATA = {
    'dmformer-s_8xb128_in1k': ('data/imagenet', 'imagenet.py', 'train'),
    'retinanet_dmformer-s_fpn_8xb2-1x_coco': (
        'data/coco', 'coco.py', 'annotations/instances_train2017.json'
    ),
    'dmformer-s_upernet_8xb2-160k_ade20k-512x512': (
        'data/ade/ADEChallengeData2016', 'ade20k.py', 'images/training'
    ),
}  # fmt: skip


def refusal(cfg):
    init_default_scope(cfg.default_scope)
    with pytest.raises(BadInputError) as refused, missing_data_named(cfg, 'train'):
        DATASETS.build(cfg.train_dataloader.dataset)
    return str(refused.value)


@pytest.mark.parametrize('name', DATA)
def test_published_data(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root, tool, part = DATA[name]
    cfg = read_config_file(REPOSITORY / 'configs/dmformer' / f'{name}.py')
    fix = f'make it with `python tools/dataset_converters/{tool} ARCHIVES`, link it there, or '
    assert (REPOSITORY / 'tools/dataset_converters' / tool).is_file()
    assert refusal(cfg).startswith(f'data directory {tmp_path}/{root} does not exist: {fix}')
    Path(root).mkdir(parents=True)
    assert refusal(cfg).startswith(f'{tmp_path}/{root}/{part} does not exist: {fix}')


def test_own_data(tmp_path):
    name = 'retinanet_dmformer-s_fpn_8xb2-1x_coco'
    cfg = read_config_file(
        REPOSITORY / 'configs/dmformer' / f'{name}.py',
        {'train_dataloader.dataset.data_root': str(tmp_path / 'mine')},
    )
    cfg.train_dataloader.dataset.metainfo = dict(classes=('cat',))
    assert refusal(cfg) == (
        f'data directory {tmp_path}/mine does not exist: put or link the data set there, or change '
        'data_root in the config.'
    )


def test_missing_file_that_is_no_data_is_another_error(tmp_path):
    cfg = read_config_file(REPOSITORY / 'configs/mini/dmformer-nano_mini-imagenet.py')
    cfg.train_dataloader.dataset.data_root = str(tmp_path)
    with pytest.raises(FileNotFoundError), missing_data_named(cfg, 'train'):
        Path('nowhere').read_text()
