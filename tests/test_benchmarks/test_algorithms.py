# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest

import algorithms
from markdown_pages import replace_between

OLD, NEW = [256, 512, 1024, 2048], [16, 32, 80, 128]


def test_the_page_is_up_to_date():
    text = algorithms.PAGE.read_text(encoding='utf-8')
    table = algorithms.make_table(algorithms.read_rows())
    assert replace_between(text, algorithms.BEGIN, algorithms.END, table) == text


def test_what_reads_the_backbone_gets_its_channels():
    heads = dict(
        decode_head=dict(in_channels=2048, in_index=3, c1_in_channels=256, channels=512),
        auxiliary_head=[dict(in_channels=1024, in_index=2), dict(in_channels=[512, 256])],
        loss=dict(weight=2048),
    )
    assert algorithms._set_channels(heads, OLD, NEW)
    assert heads == dict(
        decode_head=dict(in_channels=128, in_index=3, c1_in_channels=16, channels=512),
        auxiliary_head=[dict(in_channels=80, in_index=2), dict(in_channels=[32, 16])],
        loss=dict(weight=2048),
    )
    assert not algorithms._set_channels(dict(in_channels=64), OLD, NEW)
    with pytest.raises(algorithms.OtherKind, match='one width serves the 2 maps'):
        algorithms._set_channels(dict(in_channels=256), [256, 256], [80, 128])


def test_a_table_gathers_what_passes():
    names = ('atss', 'fcos', 'detr')
    rows = [dict(toolbox='mmdet', algorithm=n, result='passes', reason='') for n in names]
    rows[1].update(result='fails', reason='Error: a | b')
    assert algorithms.make_table(rows).splitlines()[2:] == [
        '| mmdet | 2 of 3: atss, detr | passes |  |',
        '| mmdet | fcos | fails | Error: a \\| b |',
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('toolbox', 'algorithm', 'result'),
    [('mmdet', 'fcos', 'passes'), ('mmpretrain', 'mlp_mixer', 'of another kind')],
)
def test_a_row(toolbox, algorithm, result):
    config = dict(algorithms.algorithms(toolbox))[algorithm]
    assert algorithms.run(toolbox, config)[0] == result
