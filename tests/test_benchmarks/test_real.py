# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The results on real data: what is left to run, what is written down, and what is shown of it."""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config

import comparison
import int8
import plot
import precisions
import results
from markdown_pages import replace_between
from mmdmformer.checkpoints import read_checkpoint
from mmdmformer.checkpoints.safetensors_file import to_bytes
from mmdmformer.engine.model import build_model
from mmdmformer.engine.runtime import UsageError

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'benchmarks/real/run.py'
CIFAR10, BCCD = 'cifar10/dmformer-nano_cifar10', 'bccd/retinanet_dmformer-nano_fpn_bccd'
COMPARED = list(dict.fromkeys(config for runs in comparison.STAGES.values() for config, _ in runs))


@pytest.fixture(scope='module')
def real():
    """The program as a module; ``run`` is no name for one."""
    spec = spec_from_file_location('real_run', TOOL)
    module = sys.modules['real_run'] = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules['real_run']


@pytest.fixture(scope='module')
def rows(real):
    pytest.importorskip('mmpretrain')
    # The first two steps are logged again by a run that went on from a checkpoint.
    scalars = [dict(step=s, loss=1.0, time=t) for s, t in ((60, 2), (120, 4), (60, 1), (120, 3))]
    values = {'accuracy/top1': 85.123, 'accuracy/top5': 99.0, 'step': 16}
    return real.make_rows(CIFAR10, 0, scalars, dict(val=values, test=values))


def test_rows_are_what_was_measured(rows):
    assert [(row.split, row.metric, row.value) for row in rows] == [
        ('val', 'top-1', 85.12),
        ('test', 'top-1', 85.12),
    ]
    assert rows[0].minutes == 4.0 and rows[0].network == 'dmformer-nano'
    assert rows[0].parameters == 861_114
    assert rows[0].multiply_adds == 17_609_472


def test_a_metric_that_is_missing_is_named(real):
    pytest.importorskip('mmpretrain')
    with pytest.raises(UsageError, match='nano_cifar10 measured no accuracy/top1 on the val'):
        real.make_rows(CIFAR10, 0, [], dict(val={}))


def test_file_keeps_rows_and_tells_what_is_left(real, rows, tmp_path):
    path = tmp_path / 'results.csv'
    assert real.read_results(path) == []
    two_stage = replace(rows[0], multiply_adds=None)
    real.add_results(rows, path)
    real.add_results([two_stage], path)
    assert real.read_results(path) == [*rows, two_stage]
    runs = real.chosen_runs(Namespace(collect=None, stage=None, configs=[CIFAR10, BCCD], seeds=2))
    left = real.missing_runs(real.read_results(path), runs)
    assert left == [(BCCD, 0), (CIFAR10, 1), (BCCD, 1)]


def test_table_shows_means_and_spreads_of_the_seeds(real, rows):
    seeds = [*rows, *(replace(row, seed=1, value=row.value + 1) for row in rows)]
    line = results.make_table(seeds, 'cifar10').splitlines()[-1]
    assert '| 85.6 ± 0.7 | 85.6 ± 0.7 | 2 | 0.86 M |' in line
    assert line.endswith('| 4 |')
    assert '| 85.1 | 85.1 | 1 |' in results.make_table(rows, 'cifar10')


def test_committed_table_is_that_of_the_results(real):
    assert real.PAGE.read_text() == real.make_page(real.read_results())


def test_committed_results_have_their_logs_and_weights(real):
    for row in real.read_results():
        name = Path(row.config).name
        lines = (ROOT / f'benchmarks/real/logs/{name}_seed{row.seed}.jsonl').read_text()
        scalars = [json.loads(line) for line in lines.splitlines()]
        assert round(real.training_minutes(scalars), 1) == row.minutes
        if row.split == 'val':
            last = [s for s in scalars if 'loss' not in s][-1]
            group = real.SETS[row.set]
            assert row.value == round(last[group.metrics[row.metric]] * group.scale, 2)
        if row.seed == 0 and row.config in real.SHIPPED:
            shipped = ROOT / real.SHIPPED[row.config] / f'{name}.safetensors'
            recorded = [real.Row(**r) for r in read_checkpoint(str(shipped))['meta']['results']]
            assert row in recorded
    shipped = list((ROOT / 'weights').glob('*')) + list((ROOT / 'mmdmformer/weights').glob('*'))
    assert sum(path.stat().st_size for path in shipped) < 20e6


def test_stages_are_the_networks_of_the_comparison():
    first, second = comparison.STAGES['a'], comparison.STAGES['b']
    assert [len(first), len(second)] == [16 + 8 + 4 + 2 + 2, 5 + 9]
    assert not set(first) & set(second)
    for config, _ in first + second:
        name, network = comparison.split_name(config)
        assert config == comparison.TEMPLATES[name].format(network)
        if name != 'cifar10':  # it starts from this classifier
            assert (comparison.TEMPLATES['cifar10'].format(network), 0) in first


@pytest.mark.parametrize('config', COMPARED, ids=lambda config: config.split('/')[1])
def test_networks_differ_in_the_backbone_alone_and_are_of_equal_size(config, tmp_path):
    for toolbox in ('mmpretrain', 'mmdet', 'mmseg'):
        pytest.importorskip(toolbox)
    name, network = comparison.split_name(config)
    settings, sizes = [], []
    for of in (network, comparison.DMFORMER):
        cfg = comparison.make_config(comparison.TEMPLATES[name].format(of), 1.0, tmp_path)
        sizes.append(sum(p.numel() for p in build_model(cfg).parameters()))
        cfg = cfg.to_dict()
        cfg.pop('custom_imports')  # of the toolbox that has the network
        cfg['model'].pop('backbone')
        cfg['model']['head' if name == 'cifar10' else 'neck'].pop('in_channels')
        settings.append(cfg)
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    assert settings[0] == settings[1]


def test_detectors_start_from_their_own_classifier(tmp_path):
    for toolbox in ('mmpretrain', 'mmdet'):
        pytest.importorskip(toolbox)
    classifier = build_model(comparison.make_config('cifar10/swin-nano_cifar10', 1.0, tmp_path))
    (tmp_path / 'swin-nano_cifar10_seed0').mkdir()
    path = tmp_path / 'swin-nano_cifar10_seed0/swin-nano_cifar10.safetensors'
    path.write_bytes(to_bytes(dict(state_dict=classifier.state_dict())))
    config = 'bccd/retinanet_swin-nano_fpn_bccd'
    backbone = build_model(comparison.make_config(config, 1.0, tmp_path)).backbone
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        torch.testing.assert_close(value, classifier.backbone.state_dict()[name], rtol=0, atol=0)


def test_a_network_may_have_its_own_learning_rate(tmp_path):
    config, path = 'cifar10/van-nano_cifar10', tmp_path / 'rates.csv'
    assert comparison.chosen_factor(config, path) == 1.0
    for factor, value in ((0.3, 80.0), (1.0, 82.0), (3.0, 81.0)):
        comparison.add_rate(config, factor, value + (factor == 3.0) * 5, path)
    assert comparison.chosen_factor(config, path) == 3.0
    assert comparison.chosen_factor('cifar10/swin-nano_cifar10', path) == 1.0
    pytest.importorskip('mmpretrain')
    rates = [
        comparison.make_config(config, factor, tmp_path).optim_wrapper.optimizer.lr
        for factor in (1.0, 3.0)
    ]
    assert rates[1] == pytest.approx(3 * rates[0])


def test_plot_shows_the_costs_that_are_known(rows, tmp_path):
    other = [replace(row, config='cifar10/van-nano_cifar10', network='van-nano') for row in rows]
    first, path = tmp_path / 'one.png', tmp_path / 'times.csv'
    assert plot.read_times(path) == {}
    plot.plot([*rows, *other], {}, first)
    plot.write_times(plot.measure_times([CIFAR10, other[0].config], repetitions=3), path)
    times = plot.read_times(path)
    assert set(times) == {CIFAR10, other[0].config} and min(times.values()) > 0
    second = tmp_path / 'two.png'
    plot.plot([*rows, *other], times, second)
    widths = [cv2.imread(str(picture)).shape[1] for picture in (first, second)]
    assert widths[0] / 2 == widths[1] / 3  # a panel more


def test_multiply_adds_are_for_the_size_that_a_set_is_tested_at():
    sizes = {}
    for name, template in comparison.TEMPLATES.items():
        cfg = Config.fromfile(ROOT / f'configs/{template.format(comparison.DMFORMER)}.py')
        sizes[name] = results.image_size(cfg, name)
        if name == 'cifar10':
            assert sizes[name] == (cfg.test_dataloader.dataset.pipeline[2].crop_size,) * 2
    assert (sizes['bccd'], sizes['camvid'], sizes['nuclei']) == ((240, 320), (360, 480), None)


def test_a_folder_of_another_run_is_not_collected(real, tmp_path):
    with pytest.raises(UsageError, match='needs one CONFIG, which tools/train.py has trained into'):
        real.collect_folder([CIFAR10], tmp_path)
    (tmp_path / f'{Path(CIFAR10).name}.py').write_text('randomness = dict(seed=0)')
    row = real.read_results()[0]
    with pytest.raises(UsageError, match='holds .*nano_cifar10 with seed 0: remove it first'):
        real.collect_folder([row.config], tmp_path)


def test_weights_that_come_along_say_what_they_are():
    files = [*ROOT.glob('weights/*'), *ROOT.glob('mmdmformer/weights/*')]
    assert files
    for file in files:
        content = read_checkpoint(file)
        meta = content['meta']
        cfg = Config.fromfile(ROOT / meta['config'])
        assert tuple(meta['dataset_meta']['classes']) == cfg.classes and meta['license']
        assert {row['split'] for row in meta['results']} == {'val', 'test'}
        kinds = {tensor.dtype for tensor in content['state_dict'].values()}
        assert kinds <= {torch.float16, torch.int64}


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['cifar10/swim-nano_cifar10'], 'no config cifar10/swim-nano_cifar10: --list names'),
        (['--rates', CIFAR10], 'the rate of this config stands in its file'),
        (['--rates'], 'needs the CONFIGs'),
    ],
)
def test_what_cannot_be_run_is_named(real, words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['run.py', *words])
    with pytest.raises(SystemExit):
        real.parse_args()
    assert message in capsys.readouterr().err


# int8


def test_int8_costs_at_most_half_a_point():
    rows = int8.read_rows()
    tested = {(r.config, r.metric): r.value for r in results.read_results() if r.split == 'test'}
    ours = [row for row in rows if row.rule == int8.OURS]
    assert {(row.config, row.runtime) for row in ours} == {
        (config, runtime) for config in int8.CHECKPOINTS for runtime in ('ONNX Runtime', 'OpenVINO')
    }
    for row in ours:
        assert row.float32 - row.int8 <= 0.5, row
        # The runtimes are tested as tools/test.py tests.
        assert row.float32 == pytest.approx(tested[row.config, row.metric], abs=0.05), row


def test_int8_table_is_that_of_the_results():
    text = int8.PAGE.read_text(encoding='utf-8')
    table = int8.make_table(int8.read_rows())
    assert replace_between(text, int8.BEGIN, int8.END, table) == text


def test_int8_files_run_in_int8():
    rows = precisions.read_rows()
    found = {(r['runtime'], r['file'], r['layers'], r['precision']): int(r['count']) for r in rows}
    network = build_model(Config.fromfile(precisions.CONFIG)).eval()
    network.backbone.switch_to_deploy()
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    depthwise = sum(m.groups > 1 for m in convolutions)
    linear = sum(isinstance(m, torch.nn.Linear) for m in network.modules())
    for runtime, wide in (('ONNX Runtime', 'float32'), ('OpenVINO', 'int8')):
        for file, kept in (('float32', 'float32'), ('int8', wide)):
            assert found[runtime, file, 'convolutions', file] == len(convolutions) - depthwise
            assert found[runtime, file, 'depthwise convolutions', kept] == depthwise
            assert found[runtime, file, 'linear layers', file] == linear
    text = precisions.PAGE.read_text(encoding='utf-8')
    table = precisions.make_table(rows)
    assert replace_between(text, precisions.BEGIN, precisions.END, table) == text
