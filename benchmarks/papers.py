# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Write the tables of docs/papers.md, which are the papers', from the metafiles.

A line such as ``<!-- rows: acmix/san-* acmix/resnet-* -->`` in the page says which configs a table
has, by patterns of their names below configs/; everything up to ``<!-- end of rows -->`` is
written anew. A printed number that no table of the page shows is an error.
"""

import argparse
import re
import sys
from fnmatch import fnmatch

from paper_table import ROOT, make_linked_rows, make_notes, read_metafiles, read_models

PAGE = ROOT / 'docs/papers.md'
BLOCK = re.compile(r'(<!-- rows: (.*?) -->\n).*?(<!-- end of rows -->)', re.S)


def select(models: list[dict], patterns: list[str]) -> list[dict]:
    """Select entries of metafiles by the names of their configs.

    Args:
        models (list[dict]): The entries.
        patterns (list[str]): Wildcards as in a shell, for paths below configs/ without ``.py``.

    Returns:
        list[dict]: The entries in the order of the patterns, and of the metafiles for each.

    Raises:
        ValueError: If a pattern matches no config.

    Examples:
        >>> entries = [{'Config': f'configs/family/{name}.py'} for name in ('a-1', 'b', 'a-2')]
        >>> [entry['Config'][15:-3] for entry in select(entries, ['family/b', 'family/a-*'])]
        ['b', 'a-1', 'a-2']
    """
    chosen: list[dict] = []
    for pattern in patterns:
        matches = [m for m in models if fnmatch(m['Config'], f'configs/{pattern}.py')]
        if not matches:
            raise ValueError(
                f'{pattern} in {PAGE.relative_to(ROOT)} matches no config of a metafile: correct '
                'the pattern.'
            )
        chosen += [match for match in matches if match not in chosen]
    return chosen


def fill(page: str, models: list[dict]) -> str:
    """Write the tables of the page anew.

    Args:
        page (str): The page.
        models (list[dict]): Entries of all metafiles.

    Returns:
        str: The new page.

    Raises:
        ValueError: If a pattern matches no config, or a printed number is in no table.
    """
    shown: list[dict] = []

    def write(block: re.Match) -> str:
        rows = select(models, block[2].split())
        shown.extend(rows)
        content = '\n\n'.join([make_linked_rows(rows, 'docs'), *make_notes(rows)])
        return f'{block[1]}\n{content}\n\n{block[3]}'

    page = BLOCK.sub(write, page)
    hidden = [entry['Name'] for entry in models if entry['Paper'] and entry not in shown]
    if hidden:
        raise ValueError(
            f'{PAGE.relative_to(ROOT)} has no table with {"; ".join(hidden)}: name its config in a '
            '"rows" line.'
        )
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='change nothing; fail on a difference')
    args = parser.parse_args()
    models = [entry for metafile in read_metafiles(ROOT) for entry in read_models(metafile)]
    page = PAGE.read_text(encoding='utf-8')
    try:
        filled = fill(page, models)
    except ValueError as error:
        sys.exit(str(error))
    if args.check and filled != page:
        sys.exit('docs/papers.md is out of date: run `python benchmarks/papers.py`.')
    PAGE.write_text(filled, encoding='utf-8')


if __name__ == '__main__':
    main()
