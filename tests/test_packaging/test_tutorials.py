# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The tutorials, command by command in an empty folder with the archives, and the notebook.

The archives hold made-up images in the layouts of the published ones; trainings are short.
"""

import json
import math
import re
import subprocess

import pytest
import torch
from test_docs import ROOT, blocks, commands

from made_up_sets import CIFAR10, write_archives

# What each program leaves behind, in the order in which the pages name them.
LEFT_BEHIND = {
    'mkdir': 'data',
    'tar': 'data/*/*',
    'tools/dataset_converters/split_folders.py': 'data/cifar10/train.txt',
    'tools/dataset_converters/voc.py': 'data/bccd/coco/train.json',  # with --classes
    'tools/dataset_converters/instance_masks.py': 'data/nuclei/annotations/train.json',
    # with --not-show, --output-dir and --show-number
    'tools/analysis_tools/browse_dataset.py': 'work_dirs/browse/*',
    'tools/visualization/vis_scheduler.py': 'work_dirs/schedule/my_schedule.png',
    # with --work-dir, and other values of ann_file
    'tools/train.py': 'work_dirs/*/last_checkpoint',
    'tools/test.py': 'work_dirs/drawings/**/*.*g',
    'demo/image_demo.py': 'work_dirs/*.html',
}
LOADER = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
SHORT = {
    'mmpretrain': ['train_cfg.max_epochs=1', 'param_scheduler=[]'],
    'mmdet': ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'param_scheduler=[]'],
    'mmseg': ['train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'param_scheduler=[]']
    + ['default_hooks.checkpoint.interval=1', 'train_dataloader.batch_size=2'],
}
# By what the names of configs have in common.
SCOPES = dict(
    cifar10='mmpretrain', my_pretraining='mmpretrain', bccd='mmdet', nuclei='mmdet', camvid='mmseg'
)


@pytest.fixture
def archives(tmp_path):
    """A folder with the four archives, and what of the checkout the commands name."""
    write_archives(tmp_path)
    for name in ('tools', 'configs', 'demo'):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def write_configs(page, folder):
    """Write the configs that a page shows, each of which begins with its name."""
    for block in blocks(page, 'python'):
        if named := re.match(r'# (my_\w+\.py)\n', block):
            (folder / named[1]).write_text(block)


@pytest.fixture
def follow(archives, python):
    """Runs the commands of a page in the folder of archives, and returns the folder."""

    def follow_commands(page):
        for words in commands(page):
            # $(cat FILE), of which the shell would make the content of the file
            line = re.sub(
                r'\$\(cat ([^)]+)\)', lambda m: (archives / m[1]).read_text(), ' '.join(words)
            )
            program, *rest = line.split()
            if program != 'python':
                subprocess.run([program, *rest], cwd=archives, check=True)
            else:
                program, *rest = rest
                if program == 'tools/train.py':
                    scopes = [scope for name, scope in SCOPES.items() if name in rest[0]]
                    short = [option for scope in scopes for option in SHORT[scope]]
                    rest += ['--cfg-options', *short, *LOADER]
                result = python(archives / program, *rest, cwd=archives)
                assert result.returncode == 0, (
                    f'{line}\n{result.stdout[-999:]}{result.stderr[-3000:]}'
                )
            assert list(archives.glob(LEFT_BEHIND[program])), line
        return archives

    return follow_commands


@pytest.mark.slow
@pytest.mark.parametrize(
    'page',
    ['folders_of_images', 'boxes_and_masks', 'label_images', 'pretrain_on_your_own_pictures'],
)
def test_tutorial(page, archives, follow):
    write_configs(ROOT / f'docs/{page}.md', archives)
    follow(ROOT / f'docs/{page}.md')


@pytest.mark.slow
def test_schedule(archives, follow):
    """Trains as it says: the rate in each iteration, a step for two batches, averaged weights."""
    page = ROOT / 'docs/schedule.md'
    write_configs(page, archives)
    run = follow(page) / 'work_dirs/my_schedule'
    (scalars,) = (f for f in run.glob('*/vis_data/scalars.json') if f.stat().st_size)
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    rates = {record['step'] - 1: record['lr'] for record in records if 'lr' in record}
    assert list(rates) == list(range(1, 24, 2))  # two iterations in each of 12 epochs
    for i, rate in rates.items():
        warm = 2e-3 * (0.01 + 0.99 * i / 3)
        cosine = 1e-5 + (2e-3 - 1e-5) * (1 + math.cos(math.pi * (i - 4) / 20)) / 2
        assert rate == pytest.approx(warm if i < 4 else cosine)
    last = torch.load(run / 'epoch_12.pth', weights_only=False)
    assert {int(state['step']) for state in last['optimizer']['state'].values()} == {12}
    average, current = last['state_dict'], last['ema_state_dict']
    name = 'head.fc.weight'
    assert not average[name].equal(current[f'module.{name}'])


@pytest.mark.slow
def test_notebook_runs_from_top_to_bottom(bare_python, tmp_path):
    """As Jupyter would, where nothing of ours has been imported; it holds no outputs."""
    notebook = json.loads((ROOT / 'docs/tutorial.ipynb').read_text())
    assert (notebook['nbformat'], notebook['metadata']['kernelspec']['name']) == (4, 'python3')
    cells = [cell for cell in notebook['cells'] if cell['cell_type'] == 'code']
    assert all(cell['outputs'] == [] and cell['execution_count'] is None for cell in cells)
    script = tmp_path / 'tutorial.py'
    seen = 'print("seen", classifier.classes[scores.argmax()], len(norms), *losses, *overlaps)'
    script.write_text('\n'.join([''.join(cell['source']) for cell in cells] + [seen]))
    result = bare_python(script, cwd=tmp_path, MPLBACKEND='agg')
    assert result.returncode == 0, result.stderr[-3000:]
    guess, norms, *numbers = result.stdout.partition('seen ')[2].split()
    losses, overlaps = [float(x) for x in numbers[:20]], [float(x) for x in numbers[20:]]
    assert guess in CIFAR10 and norms == '0'
    assert losses[-1] < losses[0] / 2 and sum(overlaps) / 4 > 0.5
