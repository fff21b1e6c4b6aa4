# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The schedule of every recipe at its real length, against a formula."""

import numpy as np
import pytest
from families import MAIN, name_of, recipe_of
from mmengine.config import Config

from mmdmformer.analysis.schedule import compute_schedule

# The schedules of recipes that differ in their networks alone are stepped through once.
STEPPED = {}


def step_through(cfg):
    loader = {key: value for key, value in cfg.train_dataloader.items() if key != 'dataset'}
    key = repr((cfg.optim_wrapper, cfg.param_scheduler, cfg.train_cfg, loader, cfg.data_root))
    if key not in STEPPED:
        STEPPED[key] = compute_schedule(cfg, gpus=8, quiet=True)
    return STEPPED[key]


@pytest.mark.parametrize('path', MAIN, ids=name_of)
def test_recipe_in_every_iteration_of_its_real_length(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are no data
    recipe, cfg = recipe_of(path), Config.fromfile(path)
    schedule = step_through(cfg)
    found = (
        schedule.images, schedule.batch_size, schedule.epoch_length, schedule.num_iterations
    )  # fmt: skip
    assert found == recipe.course.totals
    assert schedule.events == recipe.course.events
    assert schedule.note is None
    expected = recipe.course.rate(np.arange(schedule.num_iterations))
    for rates in schedule.values['learning rate']:
        np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-9 * cfg.lr)
    assert (schedule.values['momentum'] == 0.9).all()
    starts = schedule.values['weight decay'][:, 0]
    some_undecayed = recipe.norms_undecayed or recipe.undecayed != '(?!)'
    assert sorted(set(starts)) == [0.0] * some_undecayed + [recipe.optimizer['weight_decay']]
    assert (schedule.values['weight decay'] == starts[:, None]).all()
    betas = {group.settings.get('betas') for group in schedule.groups}
    assert betas == {recipe.optimizer.get('betas')}
