# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch

import mmdmformer  # noqa: F401  (registers the backbones)
import operator_alternatives
import operator_benchmark
from mmdmformer.analysis import benchmark
from mmdmformer.ops import multi_dilated_dwconv
from operator_benchmark import Row, count_multiply_adds, measure_operator


def test_multiply_adds_are_those_that_see_no_padding():
    # With ones everywhere, the sum of the output counts them.
    x = torch.ones(2, 3, 5, 14, dtype=torch.float64)
    weights = [torch.ones(3, 1, k, k, dtype=torch.float64) for k in (3, 5, 7)]
    biases = [torch.zeros(3, dtype=torch.float64)] * 3
    total = multi_dilated_dwconv(x, weights, biases, (1, 2, 3)).sum()
    assert count_multiply_adds(tuple(x.shape)) == total


def test_table():
    rows = [
        Row('1 x 2 x 3 x 4', [0.004, 0.002, 0.003], [0.001, 0.001, 0.002], 4_000_000, 1_000_000),
        Row('1 x 4 x 3 x 2', [0.001, 0.001, 0.001], [0.001, 0.001, 0.001], 1_000_000, 1_000_000),
    ]
    lines = operator_benchmark.make_table(rows, (8e9, 4e9)).splitlines()
    assert lines[2] == (
        '| 1 x 2 x 3 x 4 | 3.00 (2.00 to 4.00) | 1.00 (1.00 to 2.00) | 3.0 '
        '| 4.0 | 50% | 1.0 | 25% |'
    )
    assert lines[4] == (
        '| sum | 4.00 (3.00 to 5.00) | 2.00 (2.00 to 3.00) | 2.0 | 2.5 | 31% | 1.0 | 25% |'
    )


def test_amounts_are_those_of_the_passes():
    rows = {
        passes: measure_operator(1, passes, repetitions=1, size=(13, 21), channels=[4])[0]
        for passes in operator_benchmark.PASSES
    }
    assert {row.name for row in rows.values()} == {'1 x 4 x 4 x 6'}
    forward = count_multiply_adds((1, 4, 4, 6))
    one_map = 4 * 4 * 6 * 4  # bytes
    amounts = {passes: (row.multiply_adds, row.bytes_moved) for passes, row in rows.items()}
    assert amounts == dict(
        forward=(forward, 2 * one_map),
        backward=(2 * forward, 3 * one_map),  # of the gradient, x, and the gradient by x
        both=(3 * forward, 5 * one_map),
    )


@pytest.fixture
def one_thread():
    """Two threads on a busy machine wait for each other more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures('one_thread')
@pytest.mark.parametrize(('passes', 'times_faster'), [('forward', 2), ('both', 1.5)])
def test_operator_is_faster_than_three_convolutions(passes, times_faster):
    # Wide margins: busy machines showed 5.7 and 3.9 at least.
    (row,) = measure_operator(
        2,
        passes,
        memory_format=torch.channels_last,
        repetitions=5,
        size=(112, 112),
        channels=[512],
    )
    assert min(row.torch_seconds) > times_faster * min(row.our_seconds)


@pytest.mark.usefixtures('one_thread')
def test_folded_network_is_faster_than_plain_torch(monkeypatch):
    arch = dict(embed_dims=(64, 128, 320, 512), depths=(1, 1, 1, 1), ffn_ratios=(8, 8, 4, 4))
    names = ('net reference', 'net folded')
    monkeypatch.setattr(
        benchmark,
        'BACKBONES',
        {name: dict(type='DMFormer', arch=arch, deploy='folded' in name) for name in names},
    )
    case = benchmark.Case('inference', 2, 128, 128)
    reference, folded = benchmark.measure(case, names, repetitions=5)
    assert min(reference.seconds) > 1.3 * min(folded.seconds)


@pytest.mark.parametrize('way', operator_alternatives.WAYS.values())
def test_alternatives_compute_the_same(way):
    inputs = operator_benchmark.make_inputs(
        (2, 8, 11, 11), 'cpu', torch.float32, torch.channels_last, False
    )
    expected = operator_alternatives.in_three_convolutions(*(_double(t) for t in inputs))
    torch.testing.assert_close(way(*inputs).double(), expected, rtol=1e-5, atol=1e-5)


def _double(tensors):
    return tensors.double() if isinstance(tensors, torch.Tensor) else [t.double() for t in tensors]


def test_table_of_alternatives_compares_medians_with_the_way_that_is_taken():
    table = operator_alternatives.make_table(
        {'taken': [0.001, 0.004, 0.002], 'other': [0.005, 0.003, 0.004]}
    )
    assert table.splitlines()[2:] == [
        '| taken | 2.0 (1.0 to 4.0) | 1.00 |',
        '| other | 4.0 (3.0 to 5.0) | 2.00 |',
    ]
