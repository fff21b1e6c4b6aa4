# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The tutorials on data of one's own, command by command in an empty folder with the archives.

The archives hold made-up images in the layouts of the published ones; trainings are short.
"""

import re
import subprocess

import pytest
from test_docs import ROOT, blocks, commands

from made_up_sets import write_archives

# What each program leaves behind, in the order in which the pages name them.
LEAVES = {
    'mkdir': 'data',
    'tar': 'data/*/*',
    'tools/dataset_converters/split_folders.py': 'data/cifar10/train.txt',
    'tools/dataset_converters/voc.py': 'data/bccd/coco/train.json',  # with --classes
    'tools/dataset_converters/instance_masks.py': 'data/nuclei/annotations/train.json',
    # with --not-show, --output-dir and --show-number
    'tools/analysis_tools/browse_dataset.py': 'work_dirs/browse/*',
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


@pytest.mark.slow
@pytest.mark.parametrize(
    'page',
    ['folders_of_images', 'boxes_and_masks', 'label_images', 'pretrain_on_your_own_pictures'],
)
def test_tutorial(page, archives, python):
    for block in blocks(ROOT / f'docs/{page}.md', 'python'):
        if named := re.match(r'# (my_\w+\.py)\n', block):
            (archives / named[1]).write_text(block)
    for words in commands(ROOT / f'docs/{page}.md'):
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
                (scope,) = (scope for name, scope in SCOPES.items() if name in rest[0])
                rest += ['--cfg-options', *SHORT[scope], *LOADER]
            result = python(archives / program, *rest, cwd=archives)
            assert result.returncode == 0, f'{line}\n{result.stdout[-1000:]}{result.stderr[-3000:]}'
        assert list(archives.glob(LEAVES[program])), line
