# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Tables that a command keeps up to date in a page written by hand."""


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
