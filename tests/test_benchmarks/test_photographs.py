# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Maps over photographs in their own resolution, by a network that sees them small."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmpretrain')
pytest.importorskip('pytorch_grad_cam')

from mmdmformer.analysis.loaded_model import load_model
from mmdmformer.checkpoints import shipped_file
from photographs import LEVELS, explain, reduce_levels

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/cifar10/dmformer-nano_cifar10.py'


def test_map_has_the_resolution_of_the_photograph(tmp_path):
    checker = np.kron(np.indices((60, 60)).sum(0) % 2, np.ones((2, 2)))  # 120 pixels, fine squares
    path = tmp_path / 'checker.png'
    Image.fromarray(np.uint8(255 * checker)).convert('RGB').save(path)
    model = load_model(CONFIG, str(shipped_file('dmformer-nano_cifar10')))
    picture, caption = explain(model, path, 'backbone.stages.2')
    name, percent = caption.split(', ')
    assert name in model.classes and 10 <= int(percent.removesuffix('%')) <= 100
    assert picture.size == (120, 120)
    drawn = np.asarray(picture, float).mean(-1)
    assert np.corrcoef(drawn.ravel(), checker.ravel())[0, 1] > 0.7  # not blurred
    picture.save(path)
    reduce_levels(path)
    with Image.open(path) as reduced:
        assert reduced.mode == 'RGB'
        difference = np.abs(np.asarray(reduced, float) - np.asarray(picture, float)).max()
    assert 0 < difference < 256 / LEVELS


@pytest.mark.skipif(importlib.util.find_spec('skimage') is not None, reason='it is installed')
def test_what_is_missing_is_named(python, tmp_path):
    result = python(ROOT / 'benchmarks/photographs.py', '--out', 'a.png', cwd=tmp_path)
    assert result.returncode == 2
    assert 'pip install scikit-image' in result.stderr
