# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Runs that are killed and started again end as if nothing had happened."""

from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import BatchSampler, DataLoader, Dataset

from faults import other_data
from faults.mini_runs import TASKS, MiniRun, end, make_data
from faults.training import (
    differences,
    kill_and_resume,
    last_checkpoint,
)
from mmdmformer.engine.sampling import SeededBatch, make_resumable, seed_step

KILLS = 3
# Each task in CI meets other moments; the long version meets all of them ten times.
MOMENTS = {
    'classification': ('step', 'writing', 'any time'),
    'detection': ('validation', 'renaming', 'step'),
    'segmentation': ('pointing', 'validation', 'any time'),
}


@pytest.mark.parametrize(
    'task', [pytest.param(t, marks=[pytest.mark.long] * (t != 'classification')) for t in TASKS]
)
def test_killed_runs_go_on_and_end_with_the_same_weights(task, tmp_path):
    outcome = kill_and_resume(task, KILLS, tmp_path, 1, moments=MOMENTS[task])
    assert outcome.failures == []
    killed = {k: v for k, v in outcome.counts.items() if k.startswith('killed')}
    assert sum(killed.values()) == KILLS
    assert outcome.counts['ended with the state of an undisturbed run'] >= 1


@pytest.mark.long
@pytest.mark.parametrize('form', other_data.CONFIGS)
def test_killed_runs_go_on_with_data_in_forms_of_others(form, tmp_path):
    outcome = kill_and_resume(form, 1, tmp_path, 2, moments=('step',))
    assert outcome.failures == []
    assert outcome.counts['ended with the state of an undisturbed run'] == 1


@pytest.mark.slow
def test_two_processes_killed_go_on_and_end_with_the_same_weights(tmp_path):
    outcome = kill_and_resume('classification', 1, tmp_path, 5, processes=2, moments=('pointing',))
    assert outcome.failures == []
    assert outcome.counts == Counter({
        'killed (pointing)': 1,
        'went on from the newest checkpoint': 1,
        'ended with the state of an undisturbed run': 1,
    })  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, pytest.param(2, marks=pytest.mark.long)])
def test_killed_within_an_accumulation_window_goes_on_with_its_gradient(processes, tmp_path):
    """Windows end after iterations 5, 10 and 12; checkpoints are written after 4, 8 and 12."""
    make_data(tmp_path)
    options = ['optim_wrapper.accumulative_counts=5', 'default_hooks.checkpoint.max_keep_ckpts=4']
    whole = MiniRun('classification', tmp_path, 'whole', *options, processes=processes)
    assert whole.run() == [0] * processes, whole.output()[-2000:]
    run = MiniRun('classification', tmp_path, 'run', *options, processes=processes)
    killed = run.start(INJECT='step:6:kill', INJECT_RANK='0')
    end(killed[0])
    [process.kill() for process in killed]
    signaled = run.run('--resume', INJECT='step:5:term', INJECT_RANK='0')  # the ninth
    assert signaled == [75] * processes, run.output()[-2000:]
    assert last_checkpoint(run.work_dir).name == 'epoch_2_iter_10.pth'
    assert run.run('--resume') == [0] * processes, run.output()[-2000:]
    for name in ('epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth'):
        assert differences(run.work_dir / name, whole.work_dir / name) == []


@pytest.mark.slow
def test_workers_do_not_change_the_weights(tmp_path):
    make_data(tmp_path)
    alone = MiniRun('segmentation', tmp_path, 'alone', max_iters=4)
    helped = MiniRun(
        'segmentation', tmp_path, 'helped', 'train_dataloader.num_workers=2', max_iters=4
    )
    assert (alone.run(), helped.run()) == ([0], [0]), helped.output()[-2000:]
    assert differences(last_checkpoint(alone.work_dir), last_checkpoint(helped.work_dir)) == []


@pytest.mark.slow
def test_validation_that_was_interrupted_is_done_again(tmp_path):
    make_data(tmp_path)
    run = MiniRun('segmentation', tmp_path, 'run')
    assert run.run(INJECT='validation:11:kill') == [-9]  # 10 images: the first of the last one
    assert run.run('--resume') == [0], run.output()[-2000:]
    assert 'The validation after iteration 12 was interrupted: doing it again.' in run.output()
    assert 'Iter(train)' not in run.output() and 'mIoU: ' in run.output()
    assert run.run('--resume') == [0]
    assert 'Iter(val)' not in run.output()


class Noise(Dataset):
    """Samples with numbers of all three generators."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return index, torch.rand(()).item(), np.random.rand()


def loader(sampler, **kwargs):
    made = DataLoader(
        Noise(), batch_sampler=BatchSampler(sampler(Noise(), seed=3), 4, False), **kwargs
    )
    make_resumable(made)
    return made


def batches(made, count, first=0, skip=0):
    made.batch_sampler.first, made.batch_sampler.skip = first, skip
    iterator = iter(made)
    return [[part.tolist() for part in next(iterator)] for _ in range(count)]


@pytest.mark.parametrize('sampler, count', [(InfiniteSampler, 6), (DefaultSampler, 3)])
def test_data_go_on_at_any_batch_with_the_same_random_numbers(sampler, count):
    made = loader(sampler)
    whole = batches(made, count)
    torch.manual_seed(99), np.random.seed(99)
    assert batches(made, count - 2, skip=2) == whole[2:]
    assert batches(loader(sampler), count) == whole
    assert len({tuple(numbers) for _, numbers, _ in whole}) == count


def test_random_numbers_differ_between_epochs():
    made = loader(DefaultSampler)
    first, second = batches(made, 3), batches(made, 3, first=3)
    assert [b[0] for b in first] == [b[0] for b in second]  # the order is set_epoch's business
    assert all(a[1] != b[1] for a, b in zip(first, second, strict=True))


def test_batches_reach_workers_with_their_seed():
    import pickle

    batch = SeededBatch([3, 4], (1, 0, 7, 0))
    again = pickle.loads(pickle.dumps(batch))
    assert (again, again.entropy) == ([3, 4], (1, 0, 7, 0))


def test_random_numbers_of_a_step_depend_on_seed_and_iteration_alone():
    def draw(seed, iteration):
        seed_step(seed, iteration)
        return torch.rand(4).tolist(), np.random.rand(4).tolist()

    assert draw(1, 5) == draw(1, 5)
    assert len({str(draw(*pair)) for pair in ((1, 5), (1, 6), (2, 5), (5, 1))}) == 4
