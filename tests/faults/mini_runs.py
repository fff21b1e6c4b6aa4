# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Training runs of some seconds, in processes that can be killed."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import traceback
from functools import lru_cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from mini_data import make_mini_data
from quick_runs import make_runs_quick
from small_settings import settings

from . import other_data

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TIMEOUT = 200  # seconds, after which a run counts as hanging
_PRELOAD = (
    'mmdmformer.train',
    'torchvision',
    'mmpretrain.models',
    'mmdet.models',
    'mmdet.evaluation',
    'mmseg.models',
    'scipy.stats',
    'matplotlib.pyplot',
    'pycocotools.coco',
    'sklearn.metrics',
)
_CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=['mmdmformer.prepared', 'faults.injection'])
custom_hooks = [*_base_.get('custom_hooks', []), dict(type='InjectionHook')]
"""
# In each: 12 iterations of 4 images, 3 checkpoints and at least 2 validations; what is random in
# training (augmentation, mixing of images, stochastic depth) is switched on.
_OPTIONS = {
    'classification': (
        'dmformer-nano_mini-imagenet.py',
        'imagenet',
        dict(image_size=32, max_epochs=3, warmup_epochs=1),
        ['default_hooks.checkpoint.max_keep_ckpts=2'],
    ),
    'detection': (
        'retinanet_dmformer-nano_fpn_mini-coco.py',
        'coco',
        dict(image_scale=(64, 64), max_epochs=4, warmup_iters=5),
        ['train_cfg.val_interval=2', 'default_hooks.checkpoint.max_keep_ckpts=1'],
    ),
    'segmentation': (
        'dmformer-nano_sem-fpn_mini-ade20k.py',
        'ade/ADEChallengeData2016',
        dict(image_scale=(64, 64), max_iters=12),
        ['train_cfg.val_interval=6', 'default_hooks.checkpoint.interval=4',
         'default_hooks.checkpoint.max_keep_ckpts=1'],
    ),
}  # fmt: skip
TASKS = tuple(_OPTIONS)
TOOLBOXES = dict(zip(TASKS, ('mmpretrain', 'mmdet', 'mmseg'), strict=True))


def make_data(folder: Path) -> Path:
    """A dozen images of each task."""
    data = make_mini_data(
        folder / 'data',
        classification=(16, 10),
        detection=(12, 10),
        segmentation=(12, 10),
        quiet=True,
    )
    for form, write in other_data.WRITERS.items():
        write(data, folder / form)
    return data


class MiniRun:
    """A training run of 12 iterations.

    Args:
        task (str): One of :data:`TASKS`, or a form of data of :mod:`other_data`.
        folder (Path): Where the data are and the config is written.
        work_dir (str): Folder of the run, in ``folder``.
        options (str): Settings, as for ``--cfg-options``; RANK in them is the process's number.
        processes (int): How many train together. Defaults to 1.
        stock (bool): Whether the toolbox's own ``tools/train.py`` trains. Defaults to False.
        variables: Of the mini config; RANK in them as well.
    """

    def __init__(
        self,
        task: str,
        folder: Path,
        work_dir: str,
        *options: str,
        processes: int = 1,
        stock: bool = False,
        **variables: Any,
    ) -> None:
        form, (task, text) = task, other_data.CONFIGS.get(task, (task, ''))
        name, data, small, own = _OPTIONS[task]
        base = CONFIGS / 'mini' / name
        self.folder, self.work_dir, self.processes = folder, folder / work_dir, processes
        self.tool = TOOLBOXES[task] if stock else 'mmdmformer'
        self.config = folder / f'{form}.py'
        text = text.format(root=str(folder / form))
        self.config.write_text(_CONFIG.format(base=str(base)) + text)
        small = dict(small, batch_size=4 // processes, num_workers=0, drop_path_rate=0.2)
        small = {'data_root': str(folder / 'data' / data), **small, **variables}
        changed = settings(base, **small)
        if text:
            changed = [o for o in changed if 'data_root' not in o and 'ann_file' not in o]
        own = [*changed, *own, 'default_hooks.logger.interval=1']
        self.options = [*own, *options]

    def start(self, *args: str, timeout: int = TIMEOUT, **env: str) -> list[BaseProcess]:
        """Start the run.

        Args:
            args (str): Further arguments of the training entry.
            timeout (int): Seconds after which it is killed. Defaults to :data:`TIMEOUT`.
            env (str): Environment variables.

        Returns:
            list[BaseProcess]: Its processes, which begin with everything imported.
        """
        args = [str(self.config), '--work-dir', str(self.work_dir), *args]
        if self.processes > 1:
            env.update(WORLD_SIZE=str(self.processes), MASTER_ADDR='127.0.0.1')
            env.update(MASTER_PORT=str(_free_port()))
            args += ['--launcher', 'pytorch']
        started = []
        for rank in range(self.processes):
            own = dict(env, RANK=str(rank), LOCAL_RANK=str(rank)) if self.processes > 1 else env
            options = [option.replace('RANK', str(rank)) for option in self.options]
            rest = (
                self.tool,
                [*args, '--cfg-options', *options],
                str(self.folder),
                rank,
                own,
                timeout,
            )
            # What an earlier process printed must not be read if this one is killed at once.
            (self.folder / f'output{rank}').write_text('')
            process = _warm().Process(target=_train, args=rest)
            process.start()
            started.append(process)
        return started

    def run(self, *args: str, timeout: int = TIMEOUT, **env: str) -> list[int]:
        """Run until all processes have ended; arguments are those of :meth:`start`.

        Returns:
            list[int]: Their exit codes; minus the signal's number where one ended the process.
        """
        started = self.start(*args, timeout=timeout, **env)
        return [end(process, timeout) for process in started]

    def output(self, rank: int = 0) -> str:
        """What a process of the last start printed."""
        return (self.folder / f'output{rank}').read_text(errors='replace')


def end(process: BaseProcess, timeout: float = TIMEOUT) -> int:
    """Wait for a process, and kill it if it hangs.

    Returns:
        int: Its exit code.
    """
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


@lru_cache
def _warm() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(list(_PRELOAD))
    return context


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


def _train(
    tool: str, args: list[str], folder: str, rank: int, env: dict[str, str], timeout: int
) -> None:
    """The process itself."""
    signal.alarm(timeout)
    os.environ.update(env, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    os.chdir(folder)
    output = os.open(f'output{rank}', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    import torch

    torch.set_num_threads(1)
    make_runs_quick()
    code = 0
    try:
        if tool == 'mmdmformer':
            from mmdmformer.train import main

            main(args)
        else:
            sys.argv = ['train.py', *args]
            folder_of_tool = importlib.import_module(tool).__path__[0]
            runpy.run_path(f'{folder_of_tool}/.mim/tools/train.py', run_name='__main__')
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else error.code is not None
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))
