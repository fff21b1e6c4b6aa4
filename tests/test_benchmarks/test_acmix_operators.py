# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import torch

import acmix_operators
from mmdmformer.ops.local_attention import window_attention


def test_every_way_is_measured_and_copies_cost_memory():
    steps = []
    rows = acmix_operators.measure_parts(32, 40, 16, repetitions=2, on_step=lambda: steps.append(1))
    assert len(steps) == acmix_operators.num_steps(2)
    table = acmix_operators.make_table(rows)
    assert len(table.splitlines()) == 2 + 2 + 2 + 3
    for ours, plain in (rows[:2], rows[2:4]):
        assert 'ours' in ours.name and plain.name == 'unfold'
        assert ours.forward_bytes < plain.forward_bytes / 3
        assert ours.training_bytes < plain.training_bytes / 3
    assert all(min(r.training_seconds, r.forward_seconds) > 0 for r in rows)


def test_sums_are_the_same_attention():
    q, k, v = torch.rand(3, 1, 8, 9, 10, dtype=torch.double)
    torch.testing.assert_close(
        acmix_operators.window_attention_by_sums(q, k, v, 2), window_attention(q, k, v, 2, 7)
    )
