# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The study on small data: equal sizes, whole training, runs that are not repeated, the spread."""

import json
import math
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from scipy import stats

pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

from miniature import report
from miniature.study import TASKS, Cost, Recipe, Result, Run, Study, all_runs
from miniature.training import Folders, make_config, missing_runs
from mmdmformer.engine.model import build_model
from mmdmformer.engine.runtime import UsageError
from real.networks import BASELINE, NETWORKS

REPOSITORY = Path(__file__).parents[2]
TOOL = REPOSITORY / 'benchmarks/train_miniature.py'
COMMITTED = REPOSITORY / 'benchmarks/miniature'
RECIPE = Recipe()


def build(name):
    return MODELS.build(NETWORKS[name].backbone)


@pytest.mark.parametrize('name', NETWORKS)
def test_networks_are_of_equal_size_and_train_as_a_whole(name):
    nano = MODELS.build(dict(type='DMFormer', arch='nano', out_indices=(0, 1, 2, 3)))
    backbone = build(name)
    backbone.train()  # which some of the toolbox do not return
    wanted = sum(p.numel() for p in nano.parameters())
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(wanted, rel=0.05)
    outs = backbone(torch.rand(2, 3, 64, 64))
    channels = NETWORKS[name].channels
    assert [tuple(out.shape) for out in outs] == [
        (2, c, side, side) for c, side in zip(channels, (16, 8, 4, 2), strict=True)
    ]
    # weighted, since the mean of a layer norm's output does not depend on its input
    sum((out * torch.rand_like(out)).sum() for out in outs).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


def test_the_baseline_is_the_nano_of_the_demo():
    nano = MODELS.build(dict(type='DMFormer', arch='nano', out_indices=(0, 1, 2, 3)))
    shapes = {name: p.shape for name, p in nano.state_dict().items()}
    assert {n: p.shape for n, p in build(BASELINE).state_dict().items()} == shapes


def test_ablations_differ_in_what_they_say():
    mixers = {name: build(name).stages[2].blocks[0].mixer for name in list(NETWORKS)[:6]}
    full = {n: tuple(p.shape) for n, p in mixers.pop(BASELINE).named_parameters()}
    for name, mixer in mixers.items():
        shapes = {n: tuple(p.shape) for n, p in mixer.named_parameters()}
        assert (shapes == full) == (name in ('no dilation', 'no residual'))


@pytest.mark.parametrize('name', list(NETWORKS)[6:])
def test_segmentation_starts_from_the_classifier(name, tmp_path):
    """Networks of the toolbox would take another initialization without a word."""
    folders = Folders(REPOSITORY, tmp_path, tmp_path)
    first, second = (Run(0, name, task) for task in TASKS)
    classifier = build_model(make_config(first, RECIPE, folders))
    classifier.init_weights()
    weights = classifier.state_dict()
    folders.of_run(first).mkdir(parents=True)
    torch.save(dict(state_dict=weights), folders.checkpoint(first))
    segmentor = build_model(make_config(second, RECIPE, folders))
    segmentor.init_weights()
    for key, value in segmentor.backbone.state_dict().items():
        torch.testing.assert_close(value, weights[f'backbone.{key}'], rtol=0, atol=0)


def test_runs_share_all_but_the_backbone(tmp_path):
    folders = Folders(REPOSITORY, tmp_path, tmp_path)
    for task in TASKS:
        configs = []
        for name in NETWORKS:
            cfg = make_config(Run(3, name, task), RECIPE, folders).to_dict()
            assert cfg['randomness']['seed'] == 3
            cfg['model'].pop('backbone')
            head = cfg['model']['neck' if task == 'segmentation' else 'head']
            head.pop('in_channels')
            configs.append(cfg)
        assert all(cfg == configs[0] for cfg in configs)


def test_runs_come_seed_by_seed_and_after_what_they_need(tmp_path):
    folders = Folders(REPOSITORY, tmp_path, tmp_path)
    runs = all_runs(['VAN', 'Swin'], ['segmentation'], [0, 1])
    study = Study(RECIPE, '', [], [Result(runs[0], 50.0, 1.0)])
    missing = missing_runs(runs, study, folders)
    assert [(run.seed, run.network, run.task) for run in missing] == [
        (0, 'Swin', 'classification'),
        (0, 'Swin', 'segmentation'),
        (1, 'VAN', 'classification'),
        (1, 'VAN', 'segmentation'),
        (1, 'Swin', 'classification'),
        (1, 'Swin', 'segmentation'),
    ]
    # A checkpoint that is there is used, also if its result is known.
    folders.of_run(missing[0]).mkdir(parents=True)
    folders.checkpoint(missing[0]).touch()
    study.add(Result(missing[0], 50.0, 1.0))
    assert missing_runs(runs, study, folders) == missing[1:]


STUDY = Study(
    RECIPE,
    'a machine',
    [
        Cost(name, task, 860_000, 870_000, 9_000_000, [4.0, 6.0, 5.0])
        for name in ('DMFormer', 'Swin')
        for task in TASKS
    ],
    [Result(Run(seed, 'DMFormer', 'classification'), 70.0 + 2 * seed, 10.0) for seed in (0, 1, 2)]
    + [Result(Run(seed, 'Swin', 'classification'), 60.0 + seed, 20.0) for seed in (0, 1, 2)]
    + [Result(Run(0, 'Swin', 'segmentation'), 33.3, 7.0)],
)


def test_study_survives_the_file(tmp_path):
    path = tmp_path / 'folder/results.json'
    assert Study.read(path, RECIPE).results == []
    STUDY.write(path)
    assert Study.read(path, RECIPE) == STUDY
    assert sum('"metric"' in line for line in path.read_text().splitlines()) == 7
    with pytest.raises(UsageError, match=r'another recipe \(epochs \d+ instead of 99\): give'):
        Study.read(path, replace(RECIPE, epochs=99))


def test_margins_are_those_of_a_t_test():
    """With two networks the pooled test is the textbook's."""
    a, b = [70.0, 72.0, 74.0, 71.0], [69.0, 68.0, 71.5]
    (difference,) = report.compare({'DMFormer': a, 'Swin': b}).values()
    interval = stats.ttest_ind(b, a).confidence_interval(0.95)
    assert difference.value == pytest.approx(np.mean(b) - np.mean(a))
    assert difference.value - difference.margin == pytest.approx(interval.low)
    assert difference.value + difference.margin == pytest.approx(interval.high)


def test_chance_exceeds_the_margin_as_rarely_as_is_said():
    generator = np.random.default_rng(0)
    names = list(NETWORKS)
    trials = 1000
    wrong = 0
    for values in generator.normal(70, 2, (trials, len(names), 3)):
        metrics = dict(zip(names, values.tolist(), strict=True))
        wrong += any(d.is_clear for d in report.compare(metrics).values())
    assert 0.02 < wrong / trials <= 0.06


def test_without_a_second_seed_nothing_is_said():
    assert report.compare({'DMFormer': [70.0], 'Swin': [60.0]}) == {}
    assert report.compare({'Swin': [60.0, 61.0]}) == {}
    assert math.isnan(report.mean_and_spread([70.0])[1])


def test_table():
    table = report.make_table(STUDY)
    lines = table.splitlines()
    # pooled variance 2.5, t(0.975, 4) = 2.776
    margin = 2.776 * math.sqrt(2.5 * 2 / 3)
    assert lines[2] == '| DMFormer | 3 | 72.0 ± 2.0 |  | 0.860 | 9.0 | 10 | 5.0 |'
    assert (
        lines[3] == f'| Swin | 3 | 61.0 ± 1.0 | **-11.0 ± {margin:.1f}** | 0.860 | 9.0 | 20 | 5.0 |'
    )
    assert lines[7] == '| Swin | 1 | 33.3 |  | 0.860 | 9.0 | 7 | 5.0 |'
    assert '7 runs; 1,000 training images' in lines[-1]


def _children(pid):
    return [int(n) for n in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


@pytest.mark.slow
def test_tool_goes_on_after_an_interruption(python, tmp_path):
    args = ['--networks', 'PoolFormer', 'Swin', '--seeds', '0', '--images', '20', '--epochs', '2']
    args += [
        '--iterations',
        '2',
        '--val-images',
        '20',
        '--val-scenes',
        '10',
        '--out',
        'out',
        '--page',
        'page.md',
    ]
    empty = python(TOOL, *args, '--report', cwd=tmp_path)
    assert empty.returncode == 2
    assert 'error: no run is in out/results.json yet' in empty.stderr
    page = tmp_path / 'page.md'
    page.write_text(f'{report.BEGIN}\n{report.END}\n')
    results = tmp_path / 'out/results.json'
    with ThreadPoolExecutor() as pool:
        call = pool.submit(python, TOOL, *args, cwd=tmp_path)
        while not results.exists() and not call.done():
            time.sleep(0.01)
        assert results.exists(), call.result().stderr[-2000:]
        (tool,) = _children(python.server.pid)
        os.kill(tool, signal.SIGTERM)
        assert call.result().returncode == 128 + signal.SIGTERM, call.result().stderr[-2000:]
    before = json.loads(results.read_text())['results']
    assert 0 < len(before) < 4
    run = python(TOOL, *args, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert f'[{4 - len(before)}/{4 - len(before)}] seed 0, Swin, segmentation: mIoU' in run.stdout
    assert '; 0 runs are left' in run.stdout
    content = json.loads(results.read_text())
    assert content['results'][: len(before)] == before
    assert [(r['network'], r['task']) for r in content['results']] == [
        (name, task) for name in ('PoolFormer', 'Swin') for task in TASKS
    ]
    assert {cost['network'] for cost in content['costs']} == {'PoolFormer', 'Swin'}
    table = (tmp_path / 'out/table.md').read_text()
    assert '| PoolFormer | 1 |' in table and table in page.read_text().replace('\n\n<!--', '\n<!--')
    assert (tmp_path / 'out/plot.png').read_bytes().startswith(b'\x89PNG')
    # A report changes no result, and another recipe does not mix with what is there.
    (tmp_path / 'out/table.md').unlink()
    again = python(TOOL, *args, '--report', cwd=tmp_path)
    assert again.returncode == 0 and '[1/' not in again.stdout
    assert (tmp_path / 'out/table.md').read_text() == table
    assert json.loads(results.read_text()) == content
    other = python(TOOL, *args, '--epochs', '3', cwd=tmp_path)
    assert other.returncode == 2
    assert 'another recipe (epochs 2 instead of 3)' in other.stderr


def test_recipe_without_time_to_warm_up_is_refused():
    with pytest.raises(UsageError, match='epochs must be at least 2, not 1'):
        Recipe(epochs=1)


def test_the_committed_table_is_that_of_the_committed_results():
    content = json.loads((COMMITTED / 'results.json').read_text())
    study = Study.read(COMMITTED / 'results.json', RECIPE)
    assert len(study.results) == len(content['results'])
    table = report.make_table(study)
    assert (COMMITTED / 'table.md').read_text() == f'{table}\n'
    assert table in (REPOSITORY / 'docs/miniature.md').read_text()
