# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from executorch_times import BEGIN, END, NAMES, PAGE, build, make_table, read_rows, write_rows
from markdown_pages import replace_between
from mmdmformer.deploy.executorch_export import NarrowConvolutions, delegable


def test_the_page_is_up_to_date():
    text = PAGE.read_text(encoding='utf-8')
    assert replace_between(text, BEGIN, END, make_table(read_rows())) == text


def test_rows_survive_writing(tmp_path):
    write_rows(read_rows(), tmp_path / 'results.csv')
    assert read_rows(tmp_path / 'results.csv') == read_rows()


def test_what_is_rewritten_takes_less_time():
    rows = {(row.network, row.rewritten): row for row in read_rows()}
    assert {name for name, _ in rows} == set(NAMES)
    for name in NAMES:
        parts = [m for m in delegable(build(name)).modules() if isinstance(m, NarrowConvolutions)]
        plain, rewritten = rows[name, False], rows[name, True]
        # Where no convolution is large, the same is timed twice.
        assert (rewritten.median_s < 0.8 * plain.median_s) == bool(parts)
        assert rewritten.not_delegated <= plain.not_delegated
