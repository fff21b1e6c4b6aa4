# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Print the paper's sizes beside ours, and write the tables of the README files.

The sizes in the metafiles that model-index.yml lists are compared with models built from the
configs. The README in the root shows the first of them.
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
    read_metafiles,
    read_models,
    update_readme,
)

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='change nothing; fail on a difference')
    args = parser.parse_args()
    MMLogger.get_instance('paper-table', log_level=logging.ERROR)
    errors = []
    metafiles = read_metafiles(ROOT)
    for metafile in metafiles:
        models = read_models(metafile)
        errors += check_sizes(models, ROOT)
        print(make_text(models))
        folder = metafile.parent
        table = make_markdown(models, str(folder.relative_to(ROOT)))
        errors += update_readme(folder / 'README.md', table, args.check)
    printed = [entry for entry in read_models(metafiles[0]) if is_printed(entry)]
    errors += update_readme(ROOT / 'README.md', make_markdown(printed, '.'), args.check)
    sys.exit('\n'.join(errors) or 0)


if __name__ == '__main__':
    main()
