# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Stage I and stage II of convolution, attention and ACmix in ResNet-50."""

from pathlib import Path

import pytest

from acmix_stages import find_layers, split_acmix, split_attention, split_convolution
from mmdmformer.analysis.multiply_adds import count_multiply_adds
from mmdmformer.backbones import BottleneckResNet, ResNetACmix

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def layers():
    return find_layers(BottleneckResNet('50'))


def test_the_shares_of_stage_i(layers):
    """The text says 99 % for convolutions and 83 % for attention."""
    assert [layer.channels for layer in layers] == [64] * 3 + [128] * 4 + [256] * 6 + [512] * 3
    assert split_convolution(layers).first == 16 * 9 * 56**2 * 64**2
    assert split_convolution(layers).share == pytest.approx(0.9933, abs=5e-5)
    assert split_attention(layers).share == pytest.approx(0.8201, abs=5e-5)
    assert split_attention(layers, before_stride=True).share == pytest.approx(0.8769, abs=5e-5)


def test_acmix_costs_what_the_network_does(layers):
    """The network is counted as it runs; its encoding of positions is not in the formula."""
    networks = (ResNetACmix('50'), BottleneckResNet('50'))
    acmix, plain = (count_multiply_adds(network, (224, 224)) for network in networks)
    positions = sum(2 * layer.channels // 4 * layer.pixels_in for layer in layers)
    expected = sum(split_acmix(layers, before_stride=True)) - sum(split_convolution(layers)[:1])
    assert acmix - plain == expected + positions


def test_the_page_shows_what_is_computed(python, tmp_path):
    run = python(ROOT / 'benchmarks/acmix_stages.py', '--check', cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    assert '| 3x3 convolution | 1.850 G | 0.012 G | 99.3 % | 99 % |' in run.stdout
