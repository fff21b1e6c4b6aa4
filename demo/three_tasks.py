# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Train, test and draw one DMFormer backbone for several tasks, on built-in data or real sets.

Every step is a command that is printed, so that it can be typed alone. The last table compares
each result with an untrained network's; the exit code is 1 if one is below its floor.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table

from mmdmformer.analysis.pictures import make_contact_sheet
from mmdmformer.engine.model import save_untrained

ROOT = Path(__file__).resolve().parents[1]
# A core is left to the data loaders: threads that wait for one another on busy cores are slow.
THREADS = str(max(1, (os.cpu_count() or 1) - 1))
PICTURES = 8  # validation images in each task's picture


@dataclass(frozen=True)
class Task:
    """One task: its config, its metric, and the least that a run must reach."""

    name: str
    title: str
    config: str
    metric: str  # as the toolbox's evaluator names it
    metric_title: str
    floor: float
    unit: float = 1.0  # what the evaluator calls 100 %
    initialized: bool = True  # from the checkpoint of classification
    optional: bool = False
    options: dict[str, object] = field(default_factory=dict)  # --cfg-options of all its commands
    training: dict[str, object] = field(default_factory=dict)  # more of them for training
    drawing: dict[str, object] = field(default_factory=dict)  # and for the test with drawings
    interval: int = 18  # images from one drawing to the next; the built-in scenes are 150


TASKS = (
    Task(
        'classification',
        'classification',
        'configs/mini/dmformer-nano_mini-imagenet.py',
        'accuracy/top1',
        'top-1',
        floor=98.5,
        unit=100.0,
        initialized=False,
        training={
            'model.backbone.init_cfg.checkpoint': 'mmdmformer://dmformer-nano_cifar10',
            'train_cfg.max_epochs': 2,
            'param_scheduler.1.end': 2,
            'param_scheduler.1.T_max': 1,
        },
        drawing={'default_hooks.visualization.rescale_factor': 4},
        interval=125,  # of 1000
    ),
    Task(
        'detection',
        'detection, RetinaNet',
        'configs/mini/retinanet_dmformer-nano_fpn_mini-coco.py',
        'coco/bbox_mAP_50',
        'box AP50',
        floor=72.0,
        training={
            'train_cfg.max_epochs': 4,
            'train_cfg.val_interval': 4,
            'param_scheduler.1.end': 4,
            'param_scheduler.1.milestones': [3],
        },
        drawing={'default_hooks.visualization.score_thr': 0.5},
    ),
    Task(
        'segmentation',
        'segmentation, Semantic FPN',
        'configs/mini/dmformer-nano_sem-fpn_mini-ade20k.py',
        'mIoU',
        'mIoU',
        floor=55.0,
        unit=100.0,
        training={
            'train_cfg.max_iters': 450,
            'train_cfg.val_interval': 450,
            'param_scheduler.0.end': 450,
            'default_hooks.checkpoint.interval': 450,
        },
    ),
    Task(
        'instance-segmentation',
        'instances, Mask R-CNN',
        'configs/mini/mask-rcnn_dmformer-nano_fpn_mini-coco.py',
        'coco/segm_mAP_50',
        'mask AP50',
        floor=75.0,
        optional=True,
    ),
    Task(
        'segmentation-upernet',
        'segmentation, UperNet',
        'configs/mini/dmformer-nano_upernet_mini-ade20k.py',
        'mIoU',
        'mIoU',
        floor=55.0,
        unit=100.0,
        optional=True,
        # With norms its narrow heads do not learn the digits in so few iterations.
        options={'model.decode_head.norm_cfg': None, 'model.auxiliary_head.norm_cfg': None},
    ),
)


# With --data: the recipes of the real sets, whole, which takes hours; each brings its weights.
REAL_TASKS = (
    Task(
        'classification',
        'CIFAR-10, classification',
        'configs/cifar10/dmformer-nano_cifar10.py',
        'accuracy/top1',
        'top-1',
        floor=85.0,
        unit=100.0,
        initialized=False,
        drawing={'default_hooks.visualization.rescale_factor': 4},
        interval=1000,  # of ten thousand: one of each class
    ),
    Task(
        'detection',
        'blood cells, RetinaNet',
        'configs/bccd/retinanet_dmformer-nano_fpn_bccd.py',
        'coco/bbox_mAP_50',
        'box AP50',
        floor=80.0,
        initialized=False,
        drawing={'default_hooks.visualization.score_thr': 0.5},
        interval=9,  # of 72
    ),
    Task(
        'segmentation',
        'CamVid, Semantic FPN',
        'configs/camvid/dmformer-nano_sem-fpn_camvid.py',
        'mIoU',
        'mIoU',
        floor=55.0,
        unit=100.0,
        initialized=False,
        interval=30,  # of 233
    ),
    Task(
        'instance-segmentation',
        'nuclei, Mask R-CNN',
        'configs/nuclei/mask-rcnn_dmformer-nano_fpn_nuclei.py',
        'coco/segm_mAP_50',
        'mask AP50',
        floor=75.0,
        initialized=False,
        drawing={'default_hooks.visualization.score_thr': 0.5},
        interval=12,  # of some 100
    ),
)


@dataclass(frozen=True)
class RealSet:
    """A real set, as it is published.

    Attributes:
        archive (str): Name of its archive.
        target (str): Folder to unpack it into.
        prepare (tuple[str, ...]): The command that makes what its config reads, if it needs one.
        made (str): A file that the command makes, or else one that was unpacked.
    """

    archive: str
    target: str
    made: str
    prepare: tuple[str, ...] = ()


CONVERTERS = 'tools/dataset_converters'
# By the folder of the config.
REAL_SETS = {
    'cifar10': RealSet(
        'cifar10.tar.xz',
        'data',
        'data/cifar10/train.txt',
        (f'{CONVERTERS}/split_folders.py', 'data/cifar10/train'),
    ),
    'bccd': RealSet('bccd.tar.gz', 'data', 'data/bccd/ImageSets/Main/train.txt'),
    'camvid': RealSet('camvid.tar', 'data', 'data/camvid/images'),
    'nuclei': RealSet(
        'dsb2018.tar.xz',
        'data/nuclei',
        'data/nuclei/annotations/train.json',
        (f'{CONVERTERS}/instance_masks.py', 'data/nuclei/stage1_train'),
    ),
}


@dataclass(frozen=True)
class Result:
    """What a task reached, in per cent."""

    task: Task
    untrained: float
    reached: float
    seconds: float
    picture: Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--all', action='store_true', help='add Mask R-CNN and UperNet')
    parser.add_argument('--only', choices=[task.name for task in TASKS], help='run one task alone')
    parser.add_argument(
        '--data',
        type=Path,
        metavar='FOLDER',
        help='run the recipes of CIFAR-10, BCCD, CamVid and the nuclei, whose archives are there; '
        'hours on a CPU',
    )
    parser.add_argument('--work-dir', default='work_dirs/demo', help='default: %(default)s')
    return parser.parse_args()


def chosen_tasks(args: argparse.Namespace) -> list[Task]:
    """The tasks to run; one that starts from the checkpoint of classification brings it along."""
    if args.data:
        return [task for task in REAL_TASKS if args.only in (None, task.name)]
    if args.only:
        only = next(task for task in TASKS if task.name == args.only)
        return [TASKS[0], only] if only.initialized else [only]
    return [task for task in TASKS if args.all or not task.optional]


def run(*command: str, log: Path) -> None:
    """Run a Python script, showing the lines that tell its progress and keeping all of them.

    Raises:
        SystemExit: If the command fails; the end of its output is shown.
    """
    print(f'$ python {shlex.join(command)}', flush=True)
    lines = []
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={'OMP_NUM_THREADS': THREADS, **os.environ, 'PYTHONUNBUFFERED': '1'},
    )
    with log.open('a') as file:
        for line in process.stdout:
            file.write(line)
            lines.append(line)
            if any(word in line for word in ('(train)', '(val)', '(test)')):
                print('   ', line.split('INFO - ')[-1].strip()[:110], flush=True)
    if process.wait():
        print(''.join(lines[-30:]))
        sys.exit(f'The command failed; its whole output is in {log}.')


def prepare_set(real: RealSet, archives: Path, log: Path) -> None:
    """Unpack a real set and make what its config reads, unless both is done.

    Args:
        real (RealSet): The set.
        archives (Path): Folder with its archive.
        log (Path): Where the programs write what they say.

    Raises:
        SystemExit: If the archive is missing or damaged.
    """
    if Path(real.made).exists():
        return
    archive = archives / real.archive
    if not archive.is_file():
        sys.exit(f'error: {archive} does not exist: put {real.archive} into that folder.')
    Path(real.target).mkdir(parents=True, exist_ok=True)
    command = ['tar', '-xf', str(archive), '-C', real.target]
    print(f'$ {shlex.join(command)}', flush=True)
    if subprocess.call(command):
        sys.exit(f'error: {archive} cannot be unpacked: fetch it anew.')
    if real.prepare:
        run(*real.prepare, log=log)


def last_checkpoint(folder: Path) -> str:
    """The checkpoint that mmengine noted as the last one."""
    return (folder / 'last_checkpoint').read_text()


def cfg_options(options: dict[str, object]) -> list[str]:
    """The part of a command that changes settings of its config."""
    return ['--cfg-options', *(f'{k}={v}' for k, v in options.items())] if options else []


def test(task: Task, checkpoint: str, folder: Path, log: Path, *options: str) -> float:
    """Test a checkpoint with tools/test.py.

    Returns:
        float: The task's metric in per cent.
    """
    run('tools/test.py', task.config, checkpoint, '--work-dir', str(folder), *options, log=log)
    newest = max(folder.glob('*/*.json'), key=lambda path: path.stat().st_mtime)
    metrics = json.loads(newest.read_text().splitlines()[-1])
    # mmdet's evaluator gives no metric at all for a model that detects nothing.
    return metrics.get(task.metric, 0.0) / task.unit * 100


def run_task(task: Task, work_dir: Path) -> Result:
    """Train, test and draw one task."""
    start = time.time()
    folder = work_dir / task.name
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'output.log'
    log.write_text('')

    untrained = folder / 'untrained.pth'
    save_untrained(task.config, untrained, task.options)
    options = cfg_options(task.options)
    before = test(task, str(untrained), folder / 'untrained', log, *options)

    training = task.options | task.training
    if task.initialized:
        pretrained = last_checkpoint(work_dir / TASKS[0].name / 'train')
        training['model.backbone.init_cfg.checkpoint'] = pretrained
    options = ['--work-dir', str(folder / 'train'), *cfg_options(training)]
    run('tools/train.py', task.config, *options, log=log)
    checkpoint = last_checkpoint(folder / 'train')

    drawings = folder / 'drawings'
    options = ['--show-dir', str(drawings), '--interval', str(task.interval)]
    options += cfg_options(task.options | task.drawing)
    after = test(task, checkpoint, folder / 'test', log, *options)
    picture = work_dir / f'{task.name}.png'
    drawn = sorted(drawings.rglob('*.[jp][pn]g'))
    make_contact_sheet(drawn[:PICTURES], picture)
    return Result(task, before, after, time.time() - start, picture)


def show_table(results: list[Result], images: str) -> None:
    table = Table(title=f'One backbone (DMFormer nano), measured on the {images}')
    for column in ('task', 'metric', 'untrained', 'reached', 'floor', 'seconds', 'picture'):
        table.add_column(column, justify='left' if column in ('task', 'metric') else 'right')
    for r in results:
        percent = [f'{value:.1f} %' for value in (r.untrained, r.reached, r.task.floor)]
        table.add_row(
            r.task.title, r.task.metric_title, *percent, f'{r.seconds:.0f}', str(r.picture)
        )
    Console(width=130).print(table)


def main() -> None:
    args = parse_args()
    args.data = args.data and args.data.absolute()
    os.chdir(ROOT)
    MMLogger.get_instance('demo', log_level='ERROR')  # what this process itself does is no news
    work_dir = Path(args.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    tasks = chosen_tasks(args)
    if args.data:
        for task in tasks:
            prepare_set(REAL_SETS[task.config.split('/')[1]], args.data, work_dir / 'data.log')
    else:
        run('demo/make_mini_data.py', log=work_dir / 'data.log')
    results = []
    for i, task in enumerate(tasks, 1):
        print(f'\n[{i}/{len(tasks)}] {task.title}', flush=True)
        results.append(run_task(task, work_dir))
    make_contact_sheet([r.picture for r in results], work_dir / 'all.png', columns=1, height=360)
    show_table(results, 'test images of the sets' if args.data else 'built-in validation images')
    below = [r.task.title for r in results if r.reached < r.task.floor]
    if below:
        sys.exit(f'Below the floor: {", ".join(below)}.')


if __name__ == '__main__':
    main()
