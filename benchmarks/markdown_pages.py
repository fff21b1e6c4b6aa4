# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Tables that a command keeps up to date in a page written by hand."""

import sys
from pathlib import Path


def replace_between(text: str, begin: str, end: str, content: str) -> str:
    """Replace what stands between two marks of a page.

    Args:
        text (str): The page.
        begin (str): The line before, such as ``<!-- table -->``.
        end (str): The line after.
        content (str): What shall stand between them.

    Returns:
        str: The new page.

    Raises:
        ValueError: If a mark is missing.

    Examples:
        >>> replace_between('a <b> old <e> c', '<b>', '<e>', 'new')
        'a <b>\\n\\nnew\\n\\n<e> c'
    """
    if begin not in text or end not in text:
        raise ValueError(f'the page needs the lines {begin} and {end}.')
    before, _, rest = text.partition(begin)
    return f'{before}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}'


def keep_table(page: Path, begin: str, end: str, table: str, check: bool, program: str) -> None:
    """Write a table between two marks of a page.

    Args:
        page (Path): The page.
        begin (str): The line before.
        end (str): The line after.
        table (str): The table.
        check (bool): Whether to fail on a difference instead.
        program (str): What makes the table, below the repository.

    Raises:
        SystemExit: If ``check`` finds another table.
    """
    text = page.read_text(encoding='utf-8')
    updated = replace_between(text, begin, end, table)
    if check and updated != text:
        sys.exit(f'error: {page} is out of date: run `python {program}`.')
    page.write_text(updated, encoding='utf-8')
