# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Print and plot the learning rate, momentum and weight decay of a config against iteration.

Needs neither data nor a GPU: the optimizer and the schedulers that training builds are stepped
without images. Data that are present are counted.
"""

import argparse
from pathlib import Path

from mmdmformer.analysis.schedule import compute_schedule, gpus_in_name
from mmdmformer.analysis.schedule_report import format_schedule, plot_schedule
from mmdmformer.engine import runtime
from mmdmformer.engine.batch_size import enable_auto_scale_lr
from mmdmformer.engine.overrides import CfgOptions


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of any OpenMMLab toolbox')
    parser.add_argument(
        '--gpus',
        type=runtime.positive,
        help="number of processes (default: from the name's 8xb128, or 1)",
    )
    parser.add_argument(
        '--out',
        type=runtime.picture,
        metavar='PICTURE',
        help='the plot (default: work_dirs/schedule/<config name>.png)',
    )
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate as training would'
    )
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='as for tools/train.py')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    path = Path(args.config)
    out = args.out or Path('work_dirs', 'schedule', f'{path.stem}.png')
    with runtime.one_sentence_errors():
        cfg = runtime.read_config_file(path, args.cfg_options)
        if args.auto_scale_lr:
            enable_auto_scale_lr(cfg, path)
        schedule = compute_schedule(cfg, args.gpus or gpus_in_name(path))
    print(format_schedule(schedule))
    plot_schedule(schedule, out, path.stem)
    print(f'\nwrote {out}')


if __name__ == '__main__':
    main()
