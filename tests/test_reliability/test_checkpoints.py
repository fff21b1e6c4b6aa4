# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Checkpoints appear whole or not at all, and damaged ones are noticed."""

import os
import random
import resource
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import nn

from faults.training import damage_checkpoints, full_disk
from mmdmformer.checkpoints import (
    CheckpointError,
    DurableLocalBackend,
    check_intact,
    find_checkpoint,
    point_to,
)
from mmdmformer.engine.errors import UsageError
from mmdmformer.engine.hooks.checkpoint import SafeCheckpointHook


def save(path, age=0):
    torch.save({'meta': dict(iter=1), 'state_dict': nn.Linear(9, 9).state_dict()}, path)
    os.utime(path, ns=(10**18 - age * 10**9,) * 2)
    return path


def flip_bit(path, seed=0):
    content = bytearray(path.read_bytes())
    # in the middle, where the weights are
    place = random.Random(seed).randrange(len(content) // 3, len(content) // 2)
    content[place] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.slow
def test_damaged_checkpoints_lose_nothing(tmp_path):
    outcome = damage_checkpoints(2, tmp_path, 0)
    assert outcome.failures == []
    assert outcome.counts['noticed, and the one before was used'] == 2


@pytest.mark.slow
def test_full_disk_ends_the_run_and_spares_the_checkpoint(tmp_path):
    outcome = full_disk(1, tmp_path, 0)
    assert outcome.failures == []
    assert outcome.counts['ended with one sentence, the checkpoint before unharmed'] == 1


def test_content_is_replaced_at_once_or_not_at_all(tmp_path):
    path, backend = tmp_path / 'new/file', DurableLocalBackend()
    backend.put(b'old', path)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match='too large'):
            backend.put(b'new' * 1000, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == b'old' and os.listdir(path.parent) == ['file']
    backend.put(b'new', path)
    assert path.read_bytes() == b'new' and os.listdir(path.parent) == ['file']


@pytest.mark.parametrize('damage', [flip_bit, truncate, lambda p: p.write_bytes(b'')])
def test_damage_is_named(damage, tmp_path):
    path = save(tmp_path / 'epoch_1.pth')
    check_intact(path)
    damage(path)
    with pytest.raises(CheckpointError, match=f"checkpoint '{path}' is damaged"):
        check_intact(path)


def test_torch_alone_would_load_a_flipped_bit(tmp_path):
    """Why the checksums are compared here."""
    path = save(tmp_path / 'epoch_1.pth')
    before = torch.load(path, weights_only=True)['state_dict']
    flip_bit(path)
    after = torch.load(path, weights_only=True)['state_dict']
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    'files, pointer, expected',
    [
        ({}, None, None),
        ({'epoch_9.pth': 2, 'epoch_10.pth': 1}, 'epoch_10.pth', 'epoch_10.pth'),
        # ended before the newest was named, or before any was
        ({'epoch_9.pth': 2, 'epoch_10.pth': 1}, 'epoch_9.pth', 'epoch_10.pth'),
        ({'iter_900.pth': 2, 'iter_1000.pth': 1}, None, 'iter_1000.pth'),
        ({'iter_900.pth': 2, 'iter_1000.pth': 1}, '', 'iter_1000.pth'),
        # within an epoch
        ({'epoch_9.pth': 2, 'epoch_9_iter_70.pth': 1}, 'epoch_9.pth', 'epoch_9_iter_70.pth'),
        # of another filename_tmpl
        ({'net_9.pth': 2, 'net_10.pth': 1}, 'net_9.pth', 'net_10.pth'),
        # an earlier run in the same folder
        ({'epoch_300.pth': 9, 'epoch_1.pth': 1}, 'epoch_1.pth', 'epoch_1.pth'),
        # weights alone, from which no run goes on
        ({'epoch_1.pth': 2, 'best_acc_epoch_2.pth': 1}, 'epoch_1.pth', 'epoch_1.pth'),
        # a folder that was moved
        ({'epoch_1.pth': 1}, 'elsewhere/epoch_1.pth', 'epoch_1.pth'),
    ],
)
def test_newest_checkpoint_is_found(files, pointer, expected, tmp_path):
    for name, age in files.items():
        save(tmp_path / name, age)
    if pointer is not None:
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / pointer) if pointer else '')
    found = find_checkpoint(tmp_path)
    assert found == (expected and tmp_path / expected)
    if found is not None:
        point_to(tmp_path, found)
        assert Path((tmp_path / 'last_checkpoint').read_text()) == found


def test_damaged_checkpoints_are_passed_over_down_to_none(tmp_path):
    paths = [save(tmp_path / f'epoch_{n}.pth', 5 - n) for n in (1, 2, 3)]
    point_to(tmp_path, paths[2])
    for damage, path, expected in ((truncate, 2, 1), (flip_bit, 1, 0)):
        damage(paths[path])
        assert find_checkpoint(tmp_path) == paths[expected]
    truncate(paths[0])
    with pytest.raises(CheckpointError, match=r'no checkpoint in .* is intact \(3 tried'):
        find_checkpoint(tmp_path)


def test_the_checkpoint_before_is_found_by_the_name_of_the_newest(tmp_path):
    paths = [save(tmp_path / f'net_{n}.pth', 5 - n) for n in (1, 2)]
    save(tmp_path / 'best_net_1.pth')
    point_to(tmp_path, paths[1])
    truncate(paths[1])
    assert find_checkpoint(tmp_path) == paths[0]


class Runner:
    """As much of a run as the hook asks for; the real ones are in the tests of kills."""

    def __init__(self, work_dir):
        self.work_dir, self.epoch, self.iter = str(work_dir), 0, 0
        self.message_hub = MessageHub.get_instance(str(work_dir))
        self.logger = self.message_hub  # unused
        self.cfg, self.fail, self.seen = Config(), False, []

    def save_checkpoint(self, out_dir, filename, *args, **kwargs):
        self.seen.append(sorted(p.name for p in Path(out_dir).glob('*.pth')))
        if self.fail:
            raise OSError('full')
        Path(out_dir, filename).touch()


def test_old_checkpoints_go_only_when_the_new_one_is_safe(tmp_path):
    runner, hook = Runner(tmp_path), SafeCheckpointHook(max_keep_ckpts=1)
    runner.logger = type('Log', (), {'info': lambda *_: None})
    hook.before_train(runner)
    hook._save_checkpoint(runner)
    runner.epoch = 1
    hook._save_checkpoint(runner)
    assert runner.seen == [[], ['epoch_1.pth']]  # while the second was written
    assert [p.name for p in tmp_path.glob('*.pth')] == ['epoch_2.pth']
    runner.epoch, runner.fail = 2, True
    with pytest.raises(OSError, match='full'):
        hook._save_checkpoint(runner)
    assert [p.name for p in tmp_path.glob('*.pth')] == ['epoch_2.pth']


@pytest.mark.parametrize(
    'save_best, metrics, best',
    [
        (
            'auto',
            {'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.6},
            'best_pascal_voc_mAP_epoch_1.pth',
        ),
        ('auto', {'aAcc': 90.0, 'mIoU': 50.0}, 'best_mIoU_epoch_1.pth'),
        ('auto', {'single-label/f1-score': 3.0}, None),  # mmengine does not know it
        ('mAcc', {'mAcc': 1.0}, 'best_mAcc_epoch_1.pth'),
    ],
)
def test_best_checkpoint_is_that_of_any_evaluator(save_best, metrics, best, tmp_path):
    runner, hook = Runner(tmp_path), SafeCheckpointHook(save_best=save_best)
    runner.epoch = 1
    runner.logger = type('Log', (), {'info': print, 'warning': print})
    hook.before_train(runner)
    hook.after_val_epoch(runner, metrics)
    assert [p.name for p in tmp_path.glob('*.pth')] == ([best] if best else [])


def test_unmeasured_best_is_named_with_what_was_measured(tmp_path):
    runner, hook = Runner(tmp_path), SafeCheckpointHook(save_best='coco/bbox_mAP')
    runner.logger = type('Log', (), {'info': print})
    hook.before_train(runner)
    with pytest.raises(UsageError) as refused:
        hook.after_val_epoch(runner, {'pascal_voc/mAP': 0.5, 'pascal_voc/AP50': 0.6})
    assert str(refused.value) == (
        "save_best='coco/bbox_mAP' of the checkpoint hook is no metric of the validation, which "
        'measured pascal_voc/mAP, pascal_voc/AP50: name one of these, or auto.'
    )
