# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The launchers: several processes on one machine, and on the nodes of a Slurm job."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmdmformer.engine.model import save_untrained
from small_settings import settings

TOOLS = Path(__file__).parents[2] / 'tools'
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='counts processes, not GPUs')

TOY_MODULE = """
import os

import mmengine
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS

from mmdmformer import DMFormer


@DATASETS.register_module()
class ToyData(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i))
        return dict(inputs=image, index=torch.tensor(i))


@MODELS.register_module()
class ToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = DMFormer('nano', norm_cfg=dict(type='SyncBN'))

    def forward(self, inputs, index, mode):
        scores = self.backbone(inputs)[0].mean((1, 2, 3))
        if mode == 'loss':
            return dict(loss=(scores - index).square().mean())
        return list(zip(index.tolist(), scores.tolist()))


@METRICS.register_module()
class ToyMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.extend(data_samples)

    def compute_metrics(self, results):
        scores = dict(results)
        return dict(images=len(scores), mean=sum(scores.values()) / len(scores))


@HOOKS.register_module()
class ToyHook(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if os.environ.get('TOY_FAIL') == str(get_rank()):
            raise RuntimeError(f'process {get_rank()} broke')

    def after_test_epoch(self, runner, metrics=None):
        if get_rank() == 0:
            mmengine.dump(metrics, f'{runner.work_dir}/metrics.json')

    def after_train(self, runner):
        model = runner.model.module
        record = dict(world_size=get_world_size(), weights=model.state_dict(),
                      norm=type(model.backbone.stem[1]).__name__)
        torch.save(record, f'{runner.work_dir}/process_{get_rank()}.pth')
"""

TOY_CONFIG = """
custom_imports = dict(imports=['toy'])
default_scope = 'mmengine'
model = dict(type='ToyModel')
train_dataloader = dict(
    batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(type='ToyData'))
test_dataloader = dict(
    batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(type='ToyData'))
train_cfg = dict(by_epoch=True, max_epochs=1)
test_cfg = dict()
test_evaluator = dict(type='ToyMetric')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
sync_bn = 'torch'
default_hooks = dict(sampler_seed=dict(type='DistSamplerSeedHook'))
custom_hooks = [dict(type='ToyHook')]
"""

SRUN = """#!{python}
# Stands in for Slurm's srun: every "node" is this machine.
import os, subprocess, sys

arguments = sys.argv[1:]
with open(os.environ['SRUN_LOG'], 'w') as log:
    log.write('\\n'.join(arguments))
first = next(i for i, argument in enumerate(arguments) if not argument.startswith('-'))
(nodes,) = (int(a.partition('=')[2]) for a in arguments if a.startswith('--nodes='))
slurm = dict(
    SLURM_STEP_ID='0',
    SLURM_NNODES=str(nodes), SLURM_STEP_NUM_NODES=str(nodes),
    SLURM_JOB_NODELIST='node[7-8]', SLURM_STEP_NODELIST='node[7-8]')
steps = [
    subprocess.Popen(arguments[first:], env={{**os.environ, **slurm, 'SLURM_NODEID': str(node)}})
    for node in range(nodes)]
sys.exit(max(step.wait() for step in steps))
"""

SCONTROL = """#!/bin/sh
test "$*" = 'show hostnames node[7-8]' && printf '127.0.0.1\\nnode8\\n'
"""


@pytest.fixture
def toy(tmp_path):
    """A folder with a config and the module that it imports."""
    (tmp_path / 'toy.py').write_text(TOY_MODULE)
    (tmp_path / 'config.py').write_text(TOY_CONFIG)
    return tmp_path


def start(script, *args, cwd, **env):
    """Start a launcher in a clean environment, from a folder outside the repository."""
    unset = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'GPUS', 'GPUS_PER_NODE', 'SRUN_ARGS')
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    return subprocess.Popen(
        ['bash', str(TOOLS / script), *map(str, args)],
        cwd=cwd,
        env={**inherited, 'PYTHON': sys.executable, 'PYTHONPATH': str(cwd), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=240):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def records(work_dir):
    """What each process of a training run saved at its end."""
    paths = sorted(work_dir.glob('process_*.pth'))
    return [torch.load(path, weights_only=True) for path in paths]


def assert_trained_together(found, processes):
    assert [record['world_size'] for record in found] == [processes] * processes
    first, *others = (record['weights'] for record in found)
    learned = [name for name in first if 'running' not in name and 'num_batches' not in name]
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in learned)
        # Each saw other images, so that equal weights are the work of the gradients' mean.
        assert any(not torch.equal(first[name], other[name]) for name in first)
    assert not any('Sync' in record['norm'] for record in found)


@pytest.mark.slow
def test_two_jobs_at_the_same_time_train_with_two_processes_each(toy):
    jobs = [start('dist_train.sh', 'config.py', 2, '--work-dir', name, cwd=toy) for name in 'ab']
    for job in jobs:
        code, _, err = finish(job)
        assert code == 0, err[-3000:]
    for name in 'ab':
        assert_trained_together(records(toy / name), 2)
        assert (toy / name / 'epoch_1.pth').is_file()


@pytest.mark.slow
def test_testing_with_two_processes_gives_the_metric_of_one(toy, python):
    import mmdmformer

    torch.manual_seed(0)
    weights = mmdmformer.DMFormer('nano').state_dict(prefix='backbone.')
    torch.save(dict(state_dict=weights), toy / 'weights.pth')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    options = ['--work-dir', 'two']
    job = start('dist_test.sh', 'config.py', 'weights.pth', 2, *options, cwd=toy, PORT=port)
    code, _, err = finish(job)
    assert code == 0, err[-3000:]
    args = ['config.py', 'weights.pth', '--work-dir', 'one']
    alone = python(TOOLS / 'test.py', *args, cwd=toy, PYTHONPATH=str(toy))
    assert alone.returncode == 0, alone.stderr[-3000:]
    one, two = (json.loads((toy / name / 'metrics.json').read_text()) for name in ('one', 'two'))
    assert (one['images'], two['images']) == (8, 8)
    assert two['mean'] == pytest.approx(one['mean'], abs=1e-6)


LAST_WORDS = """
import sys
from pathlib import Path

from mmdmformer import test, train

dict(train=train, test=test)[sys.argv[1]].main(sys.argv[2:])
print([t.read_text() for t in Path('/proc/self/task').glob('*/comm') if 'gloo' in t.read_text()])
"""


@pytest.mark.skipif(not Path('/proc/self/task').is_dir(), reason='reads Linux thread names')
@pytest.mark.parametrize('entry', ['train', 'test'])
def test_no_thread_of_gloo_is_left_that_could_abort_the_exit(entry, toy, python):
    import mmdmformer

    torch.save(mmdmformer.DMFormer('nano').state_dict(prefix='backbone.'), toy / 'weights.pth')
    (toy / 'last_words.py').write_text(LAST_WORDS)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    checkpoint = ['weights.pth'] if entry == 'test' else []
    args = [entry, 'config.py', *checkpoint, '--launcher', 'pytorch']
    torchrun = dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1')
    torchrun.update(MASTER_PORT=port, PYTHONPATH=str(toy))
    result = python(toy / 'last_words.py', *args, cwd=toy, **torchrun)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == '[]'


def test_one_process_that_fails_ends_the_job_with_its_error(toy):
    code, _, err = finish(start('dist_train.sh', 'config.py', 2, cwd=toy, TOY_FAIL='1'))
    assert code != 0
    assert err.count('RuntimeError: process 1 broke') == 1
    assert err.splitlines()[-1] == (
        'error: process 1 of the job ended first, with code 1; what it wrote is above.'
    )


@pytest.fixture
def slurm(toy):
    """Programs that stand in for Slurm's, and the environment that finds them."""
    programs = toy / 'bin'
    programs.mkdir()
    for name, text in (('srun', SRUN.format(python=sys.executable)), ('scontrol', SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return dict(
        PATH=f'{programs}:{os.environ["PATH"]}',
        SRUN_LOG=str(toy / 'srun.log'),
        SLURM_JOB_ID=str(os.getpid()),  # decides the port, which no other test run may share
    )


@pytest.mark.slow
def test_slurm_job_trains_on_two_nodes(toy, slurm):
    job = start(
        'slurm_train.sh', 'part', 'job', 'config.py', '--work-dir', 'work', cwd=toy,
        GPUS='2', GPUS_PER_NODE='1', CPUS_PER_TASK='3', SRUN_ARGS='--qos=high --time=9', **slurm,
    )  # fmt: skip
    code, _, err = finish(job)
    assert code == 0, err[-3000:]
    assert_trained_together(records(toy / 'work'), 2)
    assert (toy / 'srun.log').read_text().splitlines() == [
        '--partition=part', '--job-name=job', '--nodes=2', '--ntasks-per-node=1', '--gres=gpu:1',
        '--cpus-per-task=3', '--signal=USR1@120', '--kill-on-bad-exit=1', '--qos=high',
        '--time=9', 'bash',
        f'{TOOLS}/slurm_node.sh', f'{TOOLS}/dist_train.sh', 'config.py', '1', '--work-dir', 'work',
    ]  # fmt: skip


def torchrun_line(script, *args, cwd, **env):
    """The arguments with which a launcher calls Python on each node."""
    code, out, err = finish(start(script, *args, cwd=cwd, **{'PYTHON': 'echo', **env}))
    assert code == 0, err
    return sorted(out.splitlines())


def test_slurm_test_runs_the_line_of_dist_test(tmp_path, slurm):
    (line,) = torchrun_line(
        'slurm_test.sh', 'part', 'job', 'c.py', 'c.pth', '--tta', cwd=tmp_path, GPUS='4', **slurm
    )
    assert line == (
        f'{TOOLS}/torchrun.py --standalone --local-addr=127.0.0.1 --nproc-per-node=4 '
        f'{TOOLS}/test.py c.py c.pth --tta --launcher pytorch'
    )
    first, second = torchrun_line(
        'slurm_test.sh', 'part', 'job', 'c.py', 'c.pth', cwd=tmp_path, GPUS='16', **slurm
    )
    port = 20000 + int(slurm['SLURM_JOB_ID']) * 101 % 10000
    for rank, line in enumerate((first, second)):
        assert line == (
            f'{TOOLS}/torchrun.py --nnodes=2 --node-rank={rank} --master-addr=127.0.0.1 '
            f'--master-port={port} --nproc-per-node=8 {TOOLS}/test.py c.py c.pth --launcher pytorch'
        )


def test_several_machines_without_slurm(tmp_path):
    env = dict(NNODES='3', NODE_RANK='1', MASTER_ADDR='first', PORT='1234')
    (line,) = torchrun_line('dist_train.sh', 'c o n f.py', 8, cwd=tmp_path, **env)
    assert line == (
        f'{TOOLS}/torchrun.py --nnodes=3 --node-rank=1 --master-addr=first '
        f'--master-port=1234 --nproc-per-node=8 {TOOLS}/train.py c o n f.py --launcher pytorch'
    )


@pytest.mark.parametrize(
    'script, args, env, sentence',
    [
        ('dist_train.sh', ['c.py'], {}, 'usage: dist_train.sh CONFIG PROCESSES [OPTIONS...]'),
        ('dist_test.sh', ['c.py', '2'], {},
         'usage: dist_test.sh CONFIG CHECKPOINT PROCESSES [OPTIONS...]'),
        ('slurm_train.sh', ['c.py'], {},
         'usage: slurm_train.sh PARTITION JOB_NAME CONFIG [OPTIONS...]'),
        ('slurm_test.sh', ['part', 'job', 'c.py'], {},
         'usage: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [OPTIONS...]'),
        ('dist_train.sh', ['c.py', '--amp'], {},
         "error: the number of processes must be 1 or more, not '--amp'."),
        ('dist_train.sh', ['c.py', '2'], dict(NNODES='2'),
         "error: NNODES=2 needs MASTER_ADDR, the first node's address, and NODE_RANK, this node's "
         'number from 0.'),
        ('slurm_train.sh', ['part', 'job', 'c.py'], dict(GPUS='12'),
         'error: GPUS=12 must be a multiple of GPUS_PER_NODE=8.'),
        ('slurm_train.sh', ['part', 'job', 'c.py'], dict(GPUS='all'),
         "error: GPUS must be 1 or more, not 'all'."),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_one_line(script, args, env, sentence, tmp_path):
    code, _, err = finish(start(script, *args, cwd=tmp_path, **env))
    assert (code, err) == (2, sentence + '\n')


@pytest.mark.long
def test_two_processes_draw_every_image(mini_data, tmp_path):
    """Nine images, of which each process tests five."""
    config = TOOLS.parent / 'configs/mini/dmformer-nano_mini-imagenet.py'
    save_untrained(config, tmp_path / 'w.pth')
    small = dict(data_root=f'{mini_data}/imagenet', batch_size=2, num_workers=0, image_size=32)
    indices = 'test_dataloader.dataset.indices=[0,2,4,6,8,10,12,14,19]'
    options = [*settings(config, **small), indices]
    job = start(
        'dist_test.sh', config, 'w.pth', 2, '--show-dir', 'drawn', '--cfg-options', *options,
        cwd=tmp_path,
    )  # fmt: skip
    code, _, err = finish(job)
    assert code == 0, err[-3000:]
    every_image = sorted(p.relative_to(mini_data) for p in mini_data.glob('imagenet/val/*/*.png'))
    expected = {Path(*every_image[i].parts[-2:]) for i in (0, 2, 4, 6, 8, 10, 12, 14, 19)}
    drawn = {p.relative_to(tmp_path / 'drawn') for p in (tmp_path / 'drawn').rglob('*.png')}
    assert drawn == expected and len(drawn) == 9
