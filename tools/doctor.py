# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Report what is installed, which GPUs and data sets are here, and how to train.

With a config, followed by options of tools/train.py, exit with code 1 and the reason if it cannot
be trained on this machine.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec('mmdmformer') is None:  # a checkout that has not been installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def parse_args(args=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', help='config file to be trained on this machine')
    parser.add_argument(
        'options', nargs=argparse.REMAINDER, help='options of tools/train.py, after the config'
    )
    return parser.parse_args(args)


def main(args=None):
    args = parse_args(args)
    try:
        from mmdmformer.doctor import examine, print_report
    except ImportError as error:  # it names what is wrong with the environment, and the fix
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    report = examine(args.config, args.options)
    print_report(report)
    if report.obstacle is not None:
        print(f'error: {report.obstacle}', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
