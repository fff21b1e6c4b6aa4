# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The study of activations: runs that repeat, a file that fills up in pieces, and what is shown."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')

import convergence
from convergence import Epoch, Images, Settings
from mmdmformer.engine.runtime import UsageError

REPOSITORY = Path(__file__).parents[2]
TOOL = REPOSITORY / 'benchmarks/convergence.py'
COMMITTED = REPOSITORY / 'benchmarks/convergence'
SMALL = Settings(images=20, size=16, patch_size=4, epochs=3, batch=5)


@pytest.fixture(scope='module')
def data():
    """Two classes that differ in brightness."""
    labels = torch.arange(20) % 2
    noise = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = Images(noise + labels[:, None, None, None], labels)
    return images, images


@pytest.mark.parametrize('variant', convergence.VARIANTS)
def test_every_variant_learns(variant, data):
    epochs = convergence.train(variant, 0, data, SMALL)
    assert [row.epoch for row in epochs] == [1, 2, 3]
    assert epochs[-1].loss < 0.9 * epochs[0].loss


def test_variants_are_those_of_the_mixer():
    for variant, settings in convergence.VARIANTS.items():
        mixer = convergence.build_classifier(variant, SMALL)[0].layers[0].attn
        assert mixer.activation == settings['activation']
        assert mixer.depthwise == (variant == 'depthwise')
        assert mixer.relative_position_bias_table is not None and mixer.num_extra_tokens == 0


def test_a_run_repeats_and_its_seed_counts(data):
    first, again = (convergence.train('ln_relu', 1, data, SMALL) for _ in range(2))
    assert first == again
    assert first != [*convergence.train('ln_relu', 2, data, SMALL)]


def test_rate_rises_in_the_first_epoch_and_falls_to_nothing():
    rates = [convergence._rate(epoch, 5) for epoch in (0.25, 1, 3, 5)]
    assert rates == pytest.approx([0.25, 1, 0.5, 0])


def test_what_is_there_is_not_run_again(data, tmp_path):
    path, variants = tmp_path / 'folder/results.csv', ['softmax', 'none']
    assert convergence.missing_runs(path, variants, 2) == [
        ('softmax', 0), ('none', 0), ('softmax', 1), ('none', 1)
    ]  # fmt: skip
    calls = []
    arguments = (path, data, SMALL, variants, 2)
    # without time there is one run, of which nothing is known beforehand
    results = convergence.run_missing(*arguments, minutes=0, on_epoch=lambda: calls.append(1))
    assert {(row.variant, row.seed) for row in results} <= {('softmax', 0)}
    results = convergence.run_missing(*arguments, on_epoch=lambda: calls.append(1))
    assert len(results) == len(calls) == 12
    before = path.read_text()
    assert convergence.run_missing(*arguments) == results
    assert path.read_text() == before
    expected = convergence.train('none', 1, data, SMALL)[-1]
    assert results[-1].loss == pytest.approx(expected.loss, abs=1e-5)


RESULTS = [
    Epoch('softmax', seed, epoch, loss, 2.0, accuracy)
    for seed, losses in enumerate([(2.0, 1.5, 0.9), (2.0, 0.5, 0.1)])
    for epoch, (loss, accuracy) in enumerate(zip(losses, (10.0, 20.0, 30.0 + seed), strict=True), 1)
] + [Epoch('ln', 0, epoch, 2.0, 2.5, 10.0) for epoch in (1, 2, 3)]


def test_table():
    lines = convergence.make_table(RESULTS).splitlines()
    assert lines[2] == '| softmax | 2 | 0.5 ± 0.4 | 2 ± 0 | 30.5 ± 0.5 | 3, 2 |'
    assert lines[3] == '| ln | 1 | 2 ± 0 | 2.5 ± 0 | 10 ± 0 | never |'
    np.testing.assert_allclose(
        convergence.curves(RESULTS, 'softmax', 'loss'), [[2.0, 1.5, 0.9], [2.0, 0.5, 0.1]]
    )


def test_plot(tmp_path):
    convergence.plot(RESULTS, tmp_path / 'folder/plot.png', SMALL)
    assert (tmp_path / 'folder/plot.png').read_bytes().startswith(b'\x89PNG')


def test_images_are_those_of_the_built_in_data(mini_data, tmp_path):
    images = convergence.read_images(mini_data / 'imagenet', 'train', 28, 20)
    assert images.images.shape == (20, 3, 28, 28)
    assert images.labels.tolist() == sorted(list(range(10)) * 2)
    with pytest.raises(UsageError, match='digit_0 has 4 images instead of 100: make them'):
        convergence.read_images(mini_data / 'imagenet', 'train', 28, 1000)


def test_tool_runs_in_pieces(python, mini_data, tmp_path):
    args = ['--data', mini_data / 'imagenet', '--out', 'out', '--epochs', '1', '--images', '30']
    args += ['--variants', 'scaling', 'depthwise']
    for seeds, left in (('1', 0), ('2', 0)):
        run = python(TOOL, *args, '--seeds', seeds, cwd=tmp_path)
        assert run.returncode == 0, run.stderr[-2000:]
        assert f'; {left} runs are left' in run.stdout
    assert len((tmp_path / 'out/results.csv').read_text().splitlines()) == 5
    assert '| depthwise | 2 |' in (tmp_path / 'out/table.md').read_text()
    assert (tmp_path / 'out/curves.png').exists()
    run = python(TOOL, '--data', 'nowhere', cwd=tmp_path)
    assert run.returncode == 2
    assert 'make them with `python demo/make_mini_data.py`' in run.stderr


def test_the_committed_table_is_that_of_the_committed_results():
    results = convergence.read_results(COMMITTED / 'results.csv')
    assert {row.variant for row in results} == set(convergence.VARIANTS)
    table = convergence.make_table(results)
    assert (COMMITTED / 'table.md').read_text().startswith(f'{table}\n')
    page = (REPOSITORY / 'docs/dynamic_convolution.md').read_text()
    assert table in page
