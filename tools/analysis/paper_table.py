# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Write the tables of configs/*/metafile.yml into the README files, or check them.

The sizes in the metafiles are compared with models built from the configs.
"""

import argparse
import logging
import sys
from pathlib import Path

import yaml
from mmengine.logging import MMLogger

from mmdmformer.analysis.paper_table import compute_metadata, make_table, replace_table

ROOT = Path(__file__).resolve().parents[2]
# Each metafile and the README files that show its table.
TABLES = {'configs/dmformer/metafile.yml': ['README.md', 'configs/dmformer/README.md']}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='change nothing; fail on a difference')
    return parser.parse_args()


def check_sizes(path: str, metafile: dict) -> list[str]:
    """Compare every entry of a metafile with the model that its config builds."""
    errors = []
    for entry in metafile['Models']:
        counted = compute_metadata(entry, ROOT)
        print(f'{entry["Name"]}: {", ".join(f"{k} {v:,}" for k, v in counted.items())}')
        if counted != entry['Metadata']:
            errors.append(
                f'{path}: {entry["Name"]!r} says {entry["Metadata"]}, but its config builds a '
                f'model of {counted}; correct the metafile.'
            )
    return errors


def update_readme(path: Path, table: str, check: bool) -> list[str]:
    """Put a table into a README, or with ``check`` say that it is not there."""
    text = path.read_text()
    updated = replace_table(text, table)
    if updated == text:
        return []
    if check:
        return [f'{path.name} is out of date: run `python tools/analysis/paper_table.py`.']
    path.write_text(updated)
    print(f'wrote {path.relative_to(ROOT)}')
    return []


def main() -> None:
    args = parse_args()
    MMLogger.get_instance('paper-table', log_level=logging.ERROR)
    errors = []
    for path, readmes in TABLES.items():
        metafile = yaml.safe_load((ROOT / path).read_text())
        errors += check_sizes(path, metafile)
        for readme in readmes:
            errors += update_readme(ROOT / readme, make_table(metafile), args.check)
    sys.exit('\n'.join(errors) or 0)


if __name__ == '__main__':
    main()
