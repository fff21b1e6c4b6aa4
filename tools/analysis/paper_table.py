# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Print the paper's sizes beside ours, and write the tables of the README files.

The sizes in configs/*/metafile.yml are compared with models built from the configs.
"""

import argparse
import logging
import sys
from pathlib import Path

from mmengine.logging import MMLogger

from mmdmformer.analysis.paper_table import (
    check_sizes,
    is_printed,
    make_markdown,
    make_text,
    read_models,
    update_readme,
)

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ['configs/dmformer']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='change nothing; fail on a difference')
    args = parser.parse_args()
    MMLogger.get_instance('paper-table', log_level=logging.ERROR)
    errors, printed = [], []
    for family in FAMILIES:
        models = read_models(ROOT / family / 'metafile.yml')
        errors += check_sizes(models, ROOT)
        print(make_text(models))
        readme = ROOT / family / 'README.md'
        errors += update_readme(readme, make_markdown(models, family), args.check)
        printed += filter(is_printed, models)
    errors += update_readme(ROOT / 'README.md', make_markdown(printed, '.'), args.check)
    sys.exit('\n'.join(errors) or 0)


if __name__ == '__main__':
    main()
