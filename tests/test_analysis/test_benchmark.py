# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import csv
import time
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmdmformer.analysis import benchmark
from mmdmformer.analysis.benchmark import Case, Measurement
from mmdmformer.ops.backend import forced_backend

CASES = [Case('inference', 2, 32, 64), Case('training', 2, 32, 64)]


class Sleeper(nn.Module):
    """Takes a known time and allocates known memory."""

    def __init__(self, seconds, floats):
        super().__init__()
        self.seconds, self.floats = seconds, floats
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        buffer = torch.empty(self.floats)
        time.sleep(self.seconds)
        return (self.weight * buffer.fill_(1.0).sum(),)


@pytest.fixture(autouse=True)
def models(monkeypatch):
    models = {'quick': (0.01, 250_000), 'slow': (0.04, 500_000), 'slow folded': (0.01, 250_000)}
    configs = {
        name: dict(type='Sleeper', seconds=seconds, floats=floats)
        for name, (seconds, floats) in models.items()
    }
    monkeypatch.setattr(benchmark, 'BACKBONES', configs)
    MODELS.register_module(module=Sleeper, force=True)
    yield
    MODELS.module_dict.pop('Sleeper')


@pytest.mark.parametrize('case', CASES, ids=str)
def test_times_and_memory_are_what_they_are(case):
    steps = []
    results = benchmark.measure(
        case, benchmark.BACKBONES, repetitions=3, on_step=lambda: steps.append(1)
    )
    names = [r.name for r in results]
    assert names == ['quick', 'slow', 'slow folded'][: 2 if case.mode == 'training' else 3]
    assert len(steps) == benchmark.num_steps(case, benchmark.BACKBONES, 3)
    quick, slow = results[:2]
    assert [len(r.seconds) for r in results] == [3] * len(results)
    assert min(quick.seconds) >= 0.01 and min(slow.seconds) >= 0.04
    assert quick.images_per_second == pytest.approx(2 / quick.median)
    assert 1_000_000 <= quick.peak_bytes < 1_010_000
    assert 2_000_000 <= slow.peak_bytes < 2_010_000


def test_repetitions_are_interleaved(monkeypatch):
    order = []
    forward = Sleeper.forward
    monkeypatch.setattr(
        Sleeper, 'forward', lambda self, x: order.append(self.floats) or forward(self, x)
    )
    benchmark.measure(CASES[0], ['quick', 'slow'], repetitions=3)
    assert order[-6:] == [250_000, 500_000] * 3


def test_reports(tmp_path):
    results = [
        Measurement(CASES[0], 'DMFormer-S', [0.2, 0.1, 0.4], 3_000_000),
        Measurement(CASES[0], 'ResNet-50', [0.1, 0.1, 0.1], 1_000_000),
    ]
    lines = benchmark.make_table(results, 'ResNet-50').splitlines()
    assert lines[0].startswith('| inference:2x32x64 | median ms |')
    assert 'time / ResNet-50' in lines[0]
    assert lines[2] == '| DMFormer-S | 200.0 | 100.0 to 400.0 | 10.00 | 2.00 | 3 |'
    assert lines[3] == '| ResNet-50 | 100.0 | 100.0 to 100.0 | 20.00 | 1.00 | 1 |'
    benchmark.write_csv(results, tmp_path / 'times.csv')
    with open(tmp_path / 'times.csv') as file:
        header, first, _ = csv.reader(file)
    assert first[:7] == ['inference', '2', '32', '64', 'DMFormer-S', '0.200000', '3000000']
    assert first[7:] == ['0.200000', '0.100000', '0.400000']
    assert header[7:] == ['seconds_1', 'seconds_2', 'seconds_3']
    benchmark.plot(results, tmp_path / 'times.png', 'somewhere')
    assert cv2.imread(str(tmp_path / 'times.png')).std() > 10


def test_growth_is_drawn_over_pixels(tmp_path):
    cases = [Case('inference', 1, side, side) for side in (64, 32)]
    assert [case.pixels for case in cases] == [4096, 1024]
    results = [Measurement(case, 'a', [case.pixels / 1e6], case.pixels) for case in cases]
    benchmark.plot_growth(results, tmp_path / 'growth.png', 'somewhere')
    assert cv2.imread(str(tmp_path / 'growth.png')).std() > 10


def test_variants_are_what_their_names_say(monkeypatch):
    class Spy(Sleeper):
        def forward(self, x):
            seen.append(
                (forced_backend(), torch.compiler.is_compiling(), torch.is_autocast_enabled('cpu'))
            )
            return super().forward(x)

        def compile(self):
            super().compile(backend='eager')

    seen = []
    MODELS.register_module(name='Sleeper', module=Spy, force=True)
    config = dict(type='Sleeper', seconds=0.0, floats=10)
    names = ['net', 'net reference', 'net bf16', 'net compiled']
    monkeypatch.setattr(benchmark, 'BACKBONES', dict.fromkeys(names, config))
    for name in names:
        benchmark.measure(CASES[0], [name], repetitions=1)
    plain, reference, bf16 = seen[0:12:4]  # warm-up twice, memory, and time
    assert plain == ('auto', False, False)
    assert reference == ('reference', False, False)
    assert bf16 == ('auto', False, True)
    assert any(compiling for _, compiling, _ in seen)


@pytest.mark.parametrize('text', ['inference', 'testing:1x2x3', 'training:1x2', 'training:0x2x2'])
def test_what_is_no_case_is_named(text):
    with pytest.raises(ValueError, match=f"'{text}' is no case: write .* inference:4x224x224"):
        Case.parse(text)


def test_cases_round_trip():
    for case in CASES:
        assert Case.parse(str(case)) == case


def test_a_config_is_measured_as_well():
    config = Path(__file__).parents[2] / 'configs/mini/metaformer-nano-pooling_mini-imagenet.py'
    (result,) = benchmark.measure(Case('inference', 1, 32, 32), [str(config)], repetitions=1)
    assert result.name == str(config) and result.seconds[0] > 0
