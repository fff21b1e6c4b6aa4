# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Print a complete config, with its bases and the changes of --cfg-options."""

import argparse
from pathlib import Path

from mmdmformer.engine import runtime
from mmdmformer.engine.overrides import CfgOptions


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file of any OpenMMLab toolbox')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='as for tools/train.py')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        print(runtime.read_config_file(args.config, args.cfg_options).pretty_text)


if __name__ == '__main__':
    main()
