# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Train, test and draw one DMFormer backbone for several tasks on the built-in data.

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
class Leg:
    """One task: its config, its metric, and the least that a run must reach."""

    name: str
    title: str
    config: str
    metric: str  # as the toolbox's evaluator names it
    metric_title: str
    floor: float
    unit: float = 1.0  # what the evaluator calls 100 %
    initialised: bool = True  # from the classification leg's checkpoint
    optional: bool = False
    options: dict[str, object] = field(default_factory=dict)  # --cfg-options of all its commands
    drawing: dict[str, object] = field(default_factory=dict)  # more of them for the drawings


LEGS = (
    Leg(
        'classification',
        'classification',
        'configs/mini/dmformer-nano_mini-imagenet.py',
        'accuracy/top1',
        'top-1',
        floor=98.5,
        unit=100.0,
        initialised=False,
        drawing={'default_hooks.visualization.rescale_factor': 4},
    ),
    Leg(
        'detection',
        'detection, RetinaNet',
        'configs/mini/retinanet_dmformer-nano_fpn_mini-coco.py',
        'coco/bbox_mAP_50',
        'box AP50',
        floor=72.0,
        drawing={'default_hooks.visualization.score_thr': 0.5},
    ),
    Leg(
        'segmentation',
        'segmentation, Semantic FPN',
        'configs/mini/dmformer-nano_sem-fpn_mini-ade20k.py',
        'mIoU',
        'mIoU',
        floor=55.0,
        unit=100.0,
    ),
    Leg(
        'instance-segmentation',
        'instances, Mask R-CNN',
        'configs/mini/mask-rcnn_dmformer-nano_fpn_mini-coco.py',
        'coco/segm_mAP_50',
        'mask AP50',
        floor=75.0,
        optional=True,
    ),
    Leg(
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


@dataclass(frozen=True)
class Result:
    """What a leg reached, in per cent."""

    leg: Leg
    untrained: float
    reached: float
    seconds: float
    picture: Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--all', action='store_true', help='add Mask R-CNN and UperNet')
    parser.add_argument('--only', choices=[leg.name for leg in LEGS], help='run one task alone')
    parser.add_argument('--work-dir', default='work_dirs/demo', help='default: %(default)s')
    return parser.parse_args()


def chosen_legs(args: argparse.Namespace) -> list[Leg]:
    """The legs to run; one that starts from the classification leg's checkpoint brings it along."""
    if args.only:
        only = next(leg for leg in LEGS if leg.name == args.only)
        return [LEGS[0], only] if only.initialised else [only]
    return [leg for leg in LEGS if args.all or not leg.optional]


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


def last_checkpoint(folder: Path) -> str:
    """The checkpoint that mmengine noted as the last one."""
    return (folder / 'last_checkpoint').read_text()


def cfg_options(options: dict[str, object]) -> list[str]:
    """The part of a command that changes settings of its config."""
    return ['--cfg-options', *(f'{k}={v}' for k, v in options.items())] if options else []


def test(leg: Leg, checkpoint: str, folder: Path, log: Path, *options: str) -> float:
    """Test a checkpoint with tools/test.py.

    Returns:
        float: The leg's metric in per cent.
    """
    run('tools/test.py', leg.config, checkpoint, '--work-dir', str(folder), *options, log=log)
    newest = max(folder.glob('*/*.json'), key=lambda path: path.stat().st_mtime)
    metrics = json.loads(newest.read_text().splitlines()[-1])
    # mmdet's evaluator gives no metric at all for a model that detects nothing.
    return metrics.get(leg.metric, 0.0) / leg.unit * 100


def run_leg(leg: Leg, work_dir: Path) -> Result:
    """Train, test and draw one task."""
    start = time.time()
    folder = work_dir / leg.name
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'output.log'
    log.write_text('')

    untrained = folder / 'untrained.pth'
    save_untrained(leg.config, untrained, leg.options)
    options = cfg_options(leg.options)
    before = test(leg, str(untrained), folder / 'untrained', log, *options)

    training = dict(leg.options)
    if leg.initialised:
        pretrained = last_checkpoint(work_dir / LEGS[0].name / 'train')
        training['model.backbone.init_cfg.checkpoint'] = pretrained
    options = ['--work-dir', str(folder / 'train'), *cfg_options(training)]
    run('tools/train.py', leg.config, *options, log=log)
    checkpoint = last_checkpoint(folder / 'train')

    drawings = folder / 'drawings'
    options = ['--show-dir', str(drawings), *cfg_options(leg.options | leg.drawing)]
    after = test(leg, checkpoint, folder / 'test', log, *options)
    picture = work_dir / f'{leg.name}.png'
    drawn = sorted(drawings.rglob('*.[jp][pn]g'))
    make_contact_sheet(drawn[:: len(drawn) // PICTURES][:PICTURES], picture)
    return Result(leg, before, after, time.time() - start, picture)


def show_table(results: list[Result]) -> None:
    table = Table(title='One backbone (DMFormer nano), measured on the built-in validation images')
    for column in ('task', 'metric', 'untrained', 'reached', 'floor', 'seconds', 'picture'):
        table.add_column(column, justify='left' if column in ('task', 'metric') else 'right')
    for r in results:
        percent = [f'{value:.1f} %' for value in (r.untrained, r.reached, r.leg.floor)]
        table.add_row(r.leg.title, r.leg.metric_title, *percent, f'{r.seconds:.0f}', str(r.picture))
    Console(width=130).print(table)


def main() -> None:
    args = parse_args()
    os.chdir(ROOT)
    MMLogger.get_instance('demo', log_level='ERROR')  # what this process itself does is no news
    work_dir = Path(args.work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    run('tools/make_mini_data.py', log=work_dir / 'data.log')
    results = []
    for i, leg in enumerate(legs := chosen_legs(args), 1):
        print(f'\n[{i}/{len(legs)}] {leg.title}', flush=True)
        results.append(run_leg(leg, work_dir))
    make_contact_sheet([r.picture for r in results], work_dir / 'all.png', columns=1, height=360)
    show_table(results)
    below = [r.leg.title for r in results if r.reached < r.leg.floor]
    if below:
        sys.exit(f'Below the floor: {", ".join(below)}.')


if __name__ == '__main__':
    main()
