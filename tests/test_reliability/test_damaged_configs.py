# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Damaged configs and meaningless options; benchmarks/reliability.py injects a thousand."""

import pytest

from faults.inputs import damaged_configs, nonsense_options
from mmdmformer.engine.runtime import UsageError, read_config_file


@pytest.mark.parametrize('inject', [damaged_configs, nonsense_options])
def test_what_cannot_be_read_is_named(inject, tmp_path):
    outcome = inject(60, tmp_path, seed=0)
    assert outcome.failures == []
    assert outcome.counts.total() == 60
    assert len(outcome.counts) == 2 and min(outcome.counts.values()) > 9


@pytest.mark.parametrize(
    'text, cause',
    [
        ('lr = (', 'SyntaxError: '),
        ('lr = rate', "NameError: name 'rate' is not defined"),
        ('lr = 1 / 0', 'ZeroDivisionError: division by zero'),
        ("_base_ = 'other.py'", 'FileNotFoundError: '),
        ('lr = 0\x00', ''),
        ("lr = '\udcff'", 'UnicodeDecodeError: '),
    ],
)
@pytest.mark.parametrize('options', [{}, {'randomness.seed': 1}])
def test_config_that_fails_is_named_in_one_sentence(text, cause, options, tmp_path):
    path = tmp_path / 'broken.py'
    path.write_bytes(text.encode(errors='surrogateescape'))
    with pytest.raises(UsageError) as refused:
        read_config_file(path, options)
    assert str(refused.value).startswith(f'config file {path} cannot be read ({cause}')
    assert '\n' not in str(refused.value) and str(refused.value).endswith('where that is.')
