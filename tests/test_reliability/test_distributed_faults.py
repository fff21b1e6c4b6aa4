# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A process that is lost does not leave the others waiting."""

from faults.training import different_lengths, lose_process


def test_the_other_process_ends_with_a_message(tmp_path):
    outcome = lose_process(3, tmp_path, 0)
    assert outcome.lost == []
    assert outcome.counts == {
        f'{action}: the other one ended with an error of its connection': 1
        for action in ('kill', 'stall', 'fail')
    }


def test_different_data_are_told_before_training(tmp_path):
    outcome = different_lengths(1, tmp_path, 0)
    assert outcome.lost == []
    assert outcome.counts == {'both ended with one sentence before training': 1}
