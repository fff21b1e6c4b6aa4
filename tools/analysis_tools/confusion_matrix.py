# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Draw the confusion matrix of a classifier or a detector, by its toolbox's own tool.

What follows the config are that tool's arguments: for a classifier a checkpoint and --show-path
FILE, for a detector the file of `tools/test.py --out` and a folder to write to.
"""

import argparse
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from mmdmformer.engine import runtime
from mmdmformer.engine.model import toolbox_of

TOOL = '.mim/tools/analysis_tools/confusion_matrix.py'
TOOLBOXES = 'mmpretrain', 'mmdet'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file of mmpretrain or mmdet')
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help="the toolbox's tool's")
    args = parser.parse_args()
    with runtime.one_sentence_errors():
        cfg = runtime.read_config_file(args.config)
        toolbox = toolbox_of(cfg)
        if toolbox not in TOOLBOXES:
            raise runtime.UsageError(
                f'{args.config} is of {toolbox}: give a config of {" or ".join(TOOLBOXES)}.'
            )
        if not cfg.get('default_scope') and '--cfg-options' not in args.arguments:
            args.arguments += ['--cfg-options', f'default_scope={toolbox}']
        tool = Path(find_spec(toolbox).origin).parent / TOOL
        sys.argv = [str(tool), str(args.config), *args.arguments]
        runpy.run_path(str(tool), run_name='__main__')


if __name__ == '__main__':
    main()
