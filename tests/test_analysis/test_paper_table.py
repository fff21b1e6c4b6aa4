# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import yaml

from mmdmformer.analysis.paper_table import (
    agrees,
    compute_metadata,
    format_like,
    make_table,
    replace_table,
)

ROOT = Path(__file__).resolve().parents[2]
METAFILE = yaml.safe_load((ROOT / 'configs/dmformer/metafile.yml').read_text())


@pytest.mark.parametrize('entry', METAFILE['Models'], ids=lambda e: e['Name'])
def test_metadata_is_what_the_config_builds(entry):
    assert compute_metadata(entry, ROOT) == entry['Metadata']


def test_exactly_three_printed_cells_differ():
    differing = {
        (entry['Name'], key): format_like(entry['Paper'][key], exact)
        for entry in METAFILE['Models']
        for key, exact in entry['Metadata'].items()
        if not agrees(entry['Paper'][key], exact)
    }
    assert differing == {
        ('DMFormer-L', 'FLOPs'): '8.2 G',
        ('RetinaNet, DMFormer-L', 'Parameters'): '54.7 M',
        ('Mask R-CNN, DMFormer-L', 'Parameters'): '64.6 M',
    }
    assert all(
        ('Note' in e) == any(k[0] == e['Name'] for k in differing) for e in METAFILE['Models']
    )


def test_differing_cells_are_marked():
    table = make_table(METAFILE)
    assert '| RetinaNet, DMFormer-L | 54,720,436 (**54.8 M** [2]) |' in table
    assert '| RetinaNet, DMFormer-S | 36,397,364 (36.4 M) |' in table
    assert '[2] Parameters: the printed 54.8 M' in table


def test_replacing_a_table_keeps_the_rest():
    text = 'a\n<!-- paper table -->\nold\n<!-- end of paper table -->\nb\n'
    updated = replace_table(text, 'new')
    assert updated == 'a\n<!-- paper table -->\n\nnew\n\n<!-- end of paper table -->\nb\n'
    assert replace_table(updated, 'new') == updated
    with pytest.raises(ValueError, match='needs the lines'):
        replace_table('no markers', 'new')


@pytest.mark.parametrize('readme', ['README.md', 'configs/dmformer/README.md'])
def test_readme_shows_the_table(readme):
    text = (ROOT / readme).read_text()
    assert text == replace_table(text, make_table(METAFILE))
