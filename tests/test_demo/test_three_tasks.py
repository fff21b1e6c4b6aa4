# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The demo on the real sets: what it unpacks is what the configs of its tasks read."""

from argparse import Namespace
from pathlib import Path

import pytest
from mmengine.config import Config

import three_tasks
from made_up_sets import write_archives

ROOT = Path(__file__).parents[2]


def test_real_sets_are_unpacked_as_their_configs_read_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archives, log = tmp_path / 'archives', tmp_path / 'data.log'
    archives.mkdir()
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    with pytest.raises(SystemExit, match=r'cifar10.tar.xz does not exist: put cifar10.tar.xz'):
        three_tasks.prepare_set(three_tasks.REAL_SETS['cifar10'], archives, log)
    write_archives(archives)
    for task in three_tasks.chosen_tasks(Namespace(data=archives, only=None)):
        real = three_tasks.REAL_SETS[task.config.split('/')[1]]
        three_tasks.prepare_set(real, archives, log)
        assert Path(real.made).exists()
        cfg = Config.fromfile(ROOT / task.config)
        for split in ('train', 'val', 'test'):
            dataset = cfg[f'{split}_dataloader'].dataset
            prefix = dataset.get('data_prefix', '')
            folders = [prefix] if isinstance(prefix, str) else prefix.values()
            read = [*folders, dataset.get('ann_file', '')]
            assert [name for name in read if not Path(dataset.data_root, name).exists()] == []
    for archive in archives.iterdir():
        archive.unlink()
    for real in three_tasks.REAL_SETS.values():  # all is there
        three_tasks.prepare_set(real, archives, log)


def test_one_real_set_can_be_chosen():
    args = Namespace(data=Path('archives'), only='detection')
    assert [task.config for task in three_tasks.chosen_tasks(args)] == [
        'configs/bccd/retinanet_dmformer-nano_fpn_bccd.py'
    ]
