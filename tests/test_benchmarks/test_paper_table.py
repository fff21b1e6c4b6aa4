# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import re
from pathlib import Path

import pytest
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config

from markdown_pages import replace_between
from mmdmformer.engine.model import build_model
from paper_table import (
    agrees,
    check_sizes,
    make_front_table,
    make_markdown,
    make_notes,
    make_rows,
    make_text,
    read_metafiles,
    read_models,
    update_readme,
)

ROOT = Path(__file__).resolve().parents[2]
METAFILES = read_metafiles(ROOT)
MODELS = read_models(ROOT / 'configs/dmformer/metafile.yml')


@pytest.mark.slow
def test_sizes_and_tables_are_up_to_date(python, tmp_path):
    run = python(ROOT / 'benchmarks/paper_table.py', '--check', cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    lines = run.stdout.splitlines()
    (large,) = (line for line in lines if line.startswith('DMFormer-L '))
    assert ' '.join(large.split()) == (
        'DMFormer-L 44,983,464 45.0 M -0.017 M 8.232 G **8.7 G** [1] **-0.468 G** Top-1 83.6'
    )


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_metafile_has_one_entry_for_each_config(metafile):
    models = read_models(metafile)
    configs = [entry['Config'] for entry in models]
    folder = metafile.parent
    assert sorted(configs) == sorted(str(p.relative_to(ROOT)) for p in folder.glob('*.py'))
    assert len({entry['Name'] for entry in models}) == len(models)


def test_the_model_index_leads_to_every_config():
    assert METAFILES[0].parent.name == 'dmformer'  # the one that the README in the root shows
    assert sorted(METAFILES) == sorted(ROOT.glob('configs/*/metafile.yml'))
    modelindex = pytest.importorskip('modelindex')
    loaded = modelindex.load(str(ROOT / 'model-index.yml'))
    loaded.build_models_with_collections()
    entries = [entry for metafile in METAFILES for entry in read_models(metafile)]
    assert [model.name for model in loaded.models] == [entry['Name'] for entry in entries]
    for model, entry in zip(loaded.models, entries, strict=True):
        assert model.full_model.metadata.parameters == entry['Metadata']['Parameters']
        assert model.full_model.metadata.data['Architecture']


def differing_cells(models):
    return {
        (entry['Name'], key): entry['Paper'][key]
        for entry in models
        for key, exact in entry['Metadata'].items()
        if key in entry['Paper'] and not agrees(entry['Paper'][key], exact)
    }


def test_exactly_three_printed_cells_of_dmformer_differ():
    assert differing_cells(MODELS) == {
        ('DMFormer-L', 'FLOPs'): '8.7 G',
        ('RetinaNet, DMFormer-L', 'Parameters'): '54.8 M',
        ('Mask R-CNN, DMFormer-L', 'Parameters'): '64.7 M',
    }


def test_all_but_one_of_the_45_printed_cells_of_the_dynamic_convolutions_are_exact():
    models = read_models(ROOT / 'configs/dynamic/metafile.yml')
    printed = [key for entry in models for key in entry['Paper'] if key in entry['Metadata']]
    assert len(printed) == 45 == 3 * printed.count('Activations')
    assert differing_cells(models) == {
        ('DeiT-B, relative positions, depthwise', 'FLOPs'): '15.830 G'
    }


@pytest.mark.parametrize('name', ['Swin-B, scaling', 'DeiT-S, relative positions, scaling'])
def test_counts_are_those_of_mmengines_stock_counter(name):
    models = read_models(ROOT / 'configs/dynamic/metafile.yml')
    (entry,) = (entry for entry in models if entry['Name'] == name)
    model = build_model(Config.fromfile(ROOT / entry['Config'])).eval()
    model.forward = model.extract_feat  # as mmpretrain's get_flops.py
    counted = get_model_complexity_info(model, (3, 224, 224), show_table=False, show_arch=False)
    assert counted['flops'] == entry['Metadata']['FLOPs']
    assert counted['activations'] == entry['Metadata']['Activations']
    assert agrees(entry['Paper']['FLOPs'], counted['flops'])
    assert agrees(entry['Paper']['Activations'], counted['activations'])


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_a_note_explains_each_cell_that_differs(metafile):
    models = read_models(metafile)
    noted = {entry['Name'] for entry in models if 'Note' in entry}
    assert noted == {name for name, _ in differing_cells(models)}


ENTRIES = [
    dict(
        Name='Right',
        Counting='all',
        Config='configs/family/right.py',
        Metadata=dict(Parameters=26_660_392, FLOPs=5_036_264_192),
        Paper={'Parameters': '26.7 M', 'FLOPs': '5.0 G', 'Top-1': 82.8},
    ),
    dict(
        Name='Wrong',
        Config='configs/family/wrong.py',
        Metadata=dict(Parameters=54_720_436),
        Paper={'Parameters': '54.8 M', 'Box AP': 43.1, 'Mask AP': 40.0},
        Note='a note.\n',
    ),
    dict(
        Name='Ours',
        Config='configs/family/ours.py',
        Metadata=dict(Parameters=10),
        Paper={},
    ),
]


def test_markdown_links_to_the_configs_and_marks_what_differs():
    rows, explanation, note = make_markdown(ENTRIES, 'configs/family').split('\n\n')
    assert rows.splitlines()[2:] == [
        '| [Right](right.py) | 26,660,392 | 26.7 M | -0.040 M | 5.036 G | 5.0 G | +0.036 G '
        '| Top-1 82.8 |',
        '| [Wrong](wrong.py) | 54,720,436 | **54.8 M** [1] | **-0.080 M** |  |  |  '
        '| Box AP 43.1, Mask AP 40.0 |',
        '| [Ours](ours.py) | 10 |  |  |  |  |  |  |',
    ]
    assert 'multiply-adds at 224x224' in explanation
    assert note == '[1] a note.'
    assert '[Right](configs/family/right.py)' in make_markdown(ENTRIES, '.')


def test_every_printed_miou_of_a_paper_that_states_no_protocol_says_so():
    models = read_models(ROOT / 'configs/dmformer/metafile.yml')
    accuracies = {
        entry['Name']: row[-1] for entry, row in zip(models, make_rows(models), strict=True)
    }
    assert accuracies['Semantic FPN, DMFormer-S'] == 'mIoU 47.2 (protocol not stated)'
    assert accuracies['UperNet, DMFormer-S'] == 'mIoU 47.6 (protocol not stated)'
    assert accuracies['DMFormer-S'] == 'Top-1 82.8'
    assert [name for name, text in accuracies.items() if 'mIoU' in text] == [
        name for name, text in accuracies.items() if 'protocol' in text
    ]
    *_, reason = make_notes(models)
    assert reason.startswith("Protocol not stated: the paper names PoolFormer's and Swin's schemes")


def test_the_front_page_shows_five_models():
    _, _, *rows = make_front_table(read_models(METAFILES[0])).splitlines()
    assert rows[0] == (
        '| [DMFormer-S](configs/dmformer/dmformer-s_8xb128_in1k.py) | 26,660,392 | 26.7 M '
        '| Top-1 82.8 |'
    )
    assert [re.match(r'\| \[(.*?), DMFormer-S\]', row)[1] for row in rows[1:]] == [
        *('RetinaNet', 'Mask R-CNN', 'Semantic FPN', 'UperNet')
    ]


def test_activations_have_columns_where_a_model_has_them():
    entry = dict(ENTRIES[0], Metadata=dict(ENTRIES[0]['Metadata'], Activations=11_947_272))
    entry['Paper'] = {**entry['Paper'], 'Activations': '11.947 M'}
    header, _, row = make_markdown([entry], '.').split('\n\n')[0].splitlines()
    assert '| FLOPs | paper | difference | activations | paper | difference | accuracy' in header
    assert '| 11.947 M | 11.947 M | +0.000 M |' in row


def test_text_is_aligned():
    *rows, note = make_text(ENTRIES).splitlines()
    column = rows[0].index('accuracy, paper')
    assert [row[column:] for row in rows[1:]] == ['Top-1 82.8', 'Box AP 43.1, Mask AP 40.0', '']
    assert note == '[1] a note.'


def test_a_wrong_size_is_named():
    entry = dict(MODELS[0], Metadata=dict(Parameters=1))
    (error,) = check_sizes([entry], ROOT)
    assert error == (
        "'DMFormer-S' says {'Parameters': 1}, but configs/dmformer/dmformer-s_8xb128_in1k.py "
        "builds a model of {'Parameters': 26660392}: correct the metafile."
    )


def test_replacing_a_table_keeps_the_rest():
    marks = '<!-- paper table -->', '<!-- end of paper table -->'
    updated = replace_between(f'a\n{marks[0]}\nold\n{marks[1]}\nb\n', *marks, 'new')
    assert updated == 'a\n<!-- paper table -->\n\nnew\n\n<!-- end of paper table -->\nb\n'
    assert replace_between(updated, *marks, 'new') == updated
    with pytest.raises(ValueError, match='the page needs the lines <!-- paper table --> and'):
        replace_between('no marks', *marks, 'new')


def test_a_stale_readme_is_named_and_rewritten(tmp_path):
    readme = tmp_path / 'README.md'
    stale = '<!-- paper table -->\nold\n<!-- end of paper table -->\n'
    readme.write_text(stale)
    assert update_readme(readme, 'new', check=True) == [
        f'{readme} is out of date: run `python benchmarks/paper_table.py`.'
    ]
    assert readme.read_text() == stale
    assert update_readme(readme, 'new', check=False) == []
    assert readme.read_text() == stale.replace('old', '\nnew\n')
    assert update_readme(readme, 'new', check=True) == []
