# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import csv

import pytest

from attention_scaling import (
    MIXERS,
    Row,
    make_table,
    measure,
    num_steps,
    plot,
    write_csv,
)

SMALL = dict(embed_dims=16, num_heads=2, repetitions=2)


def test_every_mixer_is_measured():
    steps = []
    rows = measure(6, MIXERS, **SMALL, on_step=lambda: steps.append(1))
    assert [row.name for row in rows] == list(MIXERS)
    assert len(steps) == num_steps(6, MIXERS, num_heads=2, repetitions=2) == 3 * len(MIXERS)
    assert all(len(row.seconds) == 2 and min(row.seconds) > 0 for row in rows)


@pytest.mark.parametrize('training', [False, True])
def test_memory_grows_with_the_tokens_and_not_their_square(training):
    names = ['scaling', 'depth-wise', 'scaling, relative', 'depth-wise, relative']
    small, large = (measure(side, names, **SMALL, training=training) for side in (40, 80))
    for a, b in zip(small, large, strict=True):
        assert a.peak_bytes > 4 * 16 * a.num_tokens, a.name
        assert b.peak_bytes < 6 * a.peak_bytes, a.name


def test_matrices_that_are_too_large_are_left_out():
    rows = measure(6, MIXERS, **SMALL, max_bytes=4 * 2 * 36**2 - 1)
    assert {row.name for row in rows} == set(MIXERS) - {'softmax, relative'}


def test_table_csv_and_plot(tmp_path):
    rows = [Row('softmax', 14, [0.2, 0.4, 0.3], 10**6), Row('scaling', 14, [0.1, 0.15, 0.2], 500)]
    assert make_table(rows).splitlines()[-1] == (
        '| 196 | scaling | 150.00 | 100.00 to 200.00 | 0.50 | 0.0 |'
    )
    write_csv(rows, tmp_path / 'times.csv')
    with open(tmp_path / 'times.csv') as file:
        first = next(csv.DictReader(file))
    assert (first['tokens'], first['median_s'], first['seconds_2']) == (
        '196',
        '0.300000',
        '0.400000',
    )
    plot(rows, tmp_path / 'times.png', 'a machine')
    assert (tmp_path / 'times.png').stat().st_size > 10_000
