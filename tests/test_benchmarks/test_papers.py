# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The page of the papers, and the figure of their accuracies, come from the metafiles."""

from pathlib import Path

import mmpretrain
import pytest
from mmengine.config import Config
from PIL import Image

from paper_table import read_metafiles, read_models
from papers import BLOCK, fill, select
from plot_accuracy import read_points

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs/papers.md').read_text()
MODELS = [entry for metafile in read_metafiles(ROOT) for entry in read_models(metafile)]


def test_the_page_is_up_to_date(python, tmp_path):
    run = python(ROOT / 'benchmarks/papers.py', '--check', cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]


def test_every_printed_number_is_on_the_page():
    assert fill(PAGE, MODELS) == PAGE
    without = PAGE.replace('acmix/conv-swin-t_* ', '')
    with pytest.raises(ValueError, match='no table with Conv-Swin-T, convolution alone'):
        fill(without, MODELS)


def test_a_changed_number_changes_the_page():
    (first, *others) = MODELS
    changed = {**first, 'Paper': {**first['Paper'], 'Top-1': 99.9}}
    page = fill(PAGE, [changed, *others])
    assert page == PAGE.replace('| +0.036 G | Top-1 82.8 |', '| +0.036 G | Top-1 99.9 |', 1)


def test_a_pattern_without_a_config_is_named():
    with pytest.raises(ValueError, match='acmix/resnext-.* matches no config of a metafile'):
        select(MODELS, ['acmix/resnext-*'])


@pytest.mark.parametrize(
    ('table', 'key', 'values'),
    [
        ('Table 6', 'rates', ['attention', None, 'fixed', 'learned_alpha', 'complementary', None]),
        ('Table 7', 'shift', ['tensor', 'fixed', 'random', None]),
    ],
)
def test_rows_of_acmix_ablations_are_the_configs_that_they_name(table, key, values):
    (section,) = (part for part in PAGE.split('\n### ') if part.startswith(f'{table}:'))
    rows = select(MODELS, BLOCK.search(section)[2].split())
    backbones = [Config.fromfile(ROOT / row['Config']).model.backbone for row in rows]
    assert [backbone.get(key) for backbone in backbones] == values
    assert [b.type for b in backbones].count('ConvSwin') == (table == 'Table 6')
    printed = {'Table 6': [81.3, 80.5, 81.5, 81.6, 81.5, 81.9], 'Table 7': [81.4, 81.4, 81.5, 81.9]}
    assert [row['Paper']['Top-1'] for row in rows] == printed[table]


def test_accuracies_are_drawn(python, tmp_path):
    points = read_points(MODELS)
    assert points['DMFormer'] == [(26.660392, 82.8), (44.983464, 83.6)]
    assert all(list(line) == sorted(line) for line in points.values())
    run = python(ROOT / 'benchmarks/plot_accuracy.py', '--out', 'plot_accuracy.png', cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    with Image.open(tmp_path / 'plot_accuracy.png') as image:
        assert image.size == (880, 550)
        assert len(image.convert('RGB').getcolors(100_000)) > 9  # a color for each line


def test_a_picture_that_cannot_be_written_is_refused(python, tmp_path):
    run = python(ROOT / 'benchmarks/plot_accuracy.py', '--out', 'accuracy.xyz', cwd=tmp_path)
    assert run.returncode == 2
    assert 'accuracy.xyz' in run.stderr.splitlines()[-1]


@pytest.mark.slow
def test_grad_cam_of_swin_resnet_and_dmformer_side_by_side(python, tmp_path):
    stock = Path(mmpretrain.__file__).parent / '.mim/configs'
    Image.effect_noise((320, 240), 64).convert('RGB').save(tmp_path / 'image.png')
    configs = (
        stock / 'swin_transformer/swin-tiny_16xb64_in1k.py',
        stock / 'resnet/resnet50_8xb32_in1k.py',
        ROOT / 'configs/dmformer/dmformer-s_8xb128_in1k.py',
    )
    pairs = [word for config in configs for word in (config, 'none')]
    titles = ('Swin-T', 'ResNet-50', 'DMFormer-S')
    options = ('--titles', *titles, '--out', 'cam.png')
    run = python(
        ROOT / 'tools/visualization/vis_cam.py', 'image.png', *pairs, *options, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [line for line in run.stdout.splitlines() if ': gradcam of' in line]
    assert [line.partition(':')[0] for line in lines] == list(titles)
    with Image.open(tmp_path / 'cam.png') as image:
        assert image.width > 4 * 224  # the image and three maps
