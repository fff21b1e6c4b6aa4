# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from mixer_table import FIELDS, make_table, measure_fields, read_column, read_entries
from mmdmformer import TOKEN_MIXERS

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date(python, tmp_path):
    run = python(ROOT / 'benchmarks/mixer_table.py', '--check', cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]


def test_every_registered_mixer_has_a_row_and_a_receptive_field():
    TOKEN_MIXERS.import_from_location()
    entries = read_entries()
    mixers = {entry['Name'].removeprefix('MetaFormer-S, ').split(',')[0] for entry in entries}
    ours = {k for k, v in TOKEN_MIXERS.module_dict.items() if v.__module__.startswith('mmdmformer')}
    assert mixers >= ours and len(ours) == 12
    assert len(read_column(FIELDS, 'side_px')) == len(entries) == 13


def test_a_row_has_what_was_measured():
    entries = read_entries()[:2]
    rows = make_table(entries, {'metaformer-s-dma': 0.1234}, {'metaformer-s-identity': 51})
    assert rows.splitlines()[2:] == [
        '| [MetaFormer-S, DMA](metaformer-s-dma_8xb128_in1k.py) | 2, 2, 6, 2 | 26,660,392 '
        '| 5.036 G | 34.6 M | 123 ms |  |',
        '| [MetaFormer-S, Identity](metaformer-s-identity_8xb128_in1k.py) | 2, 2, 23, 2 '
        '| 26,653,416 | 5.667 G | 25.7 M |  | 51 px |',
    ]


def test_fields_are_measured_and_kept(tmp_path):
    """As `--fields` does. DMA sees farther than the convolutions around it."""
    names = ('identity', 'dma')
    configs = [f'configs/mini/metaformer-nano-{name}_mini-imagenet.py' for name in names]
    measure_fields([dict(Config=config) for config in configs], tmp_path / 'new/fields.csv')
    none, dma = (
        read_column(tmp_path / 'new/fields.csv', 'side_px')[f'metaformer-nano-{name}']
        for name in names
    )
    assert 0 < none < dma <= 225
