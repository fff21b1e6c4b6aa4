# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A process that is lost does not leave the others waiting."""

import json

import pytest

from faults.mini_runs import MiniRun, make_data
from faults.training import different_lengths, lose_process


@pytest.mark.slow
def test_the_other_process_ends_with_a_message(tmp_path):
    outcome = lose_process(3, tmp_path, 0)
    assert outcome.failures == []
    assert outcome.counts == {
        f'{action}: the other one ended with an error of its connection': 1
        for action in ('kill', 'stall', 'fail')
    }


@pytest.mark.slow
def test_different_data_are_told_before_training(tmp_path):
    outcome = different_lengths(1, tmp_path, 0)
    assert outcome.failures == []
    assert outcome.counts == {'both ended with one sentence before training': 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    'bad, code, sentence, told',
    [
        (slice(2), 0, 'objects take no part: 2 whose box has no area', 1),
        (slice(None), 2, 'none is left', 2),
    ],
    ids=['some', 'all'],
)
def test_annotations_are_checked_in_both(bad, code, sentence, told, tmp_path):
    path = make_data(tmp_path) / 'coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    for found in content['annotations'][bad]:
        found['bbox'][2:] = [0, 0]
    path.write_text(json.dumps(content))
    run = MiniRun('detection', tmp_path, 'work', 'train_cfg.max_epochs=1', processes=2)
    assert run.run() == [code, code]
    lines = [line for rank in range(2) for line in run.output(rank).splitlines()]
    assert sum(sentence in line for line in lines) == told
