# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""A short run into each place that docs/clusters.md logs to (requirements/backends.txt)."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = re.findall(r'`(dict\(type=.(\w+)VisBackend.*?)`', (ROOT / 'docs/clusters.md').read_text())
CONFIG = """
_base_ = {base!r}
visualizer = dict(vis_backends=[{line}])
loader = dict(batch_size=8, num_workers=0, persistent_workers=False)
train_dataloader = dict(**loader, dataset=dict(data_root={data!r}, indices=16))
val_dataloader = dict(**loader, dataset=dict(data_root={data!r}, indices=8))
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""
OFFLINE = dict(WANDB_MODE='offline', CLEARML_OFFLINE_MODE='1', DVC_NO_ANALYTICS='1')
# A file that is written, by the package.
WRITTEN = dict(
    Tensorboard='work/*/vis_data/events.out.tfevents*',
    Wandb='work/*/vis_data/wandb/offline-run-*/*.wandb',
    MLflow='mlflow.db',
    ClearML='home/.clearml/**/offline*/**/metrics.jsonl',
    DVCLive='work/*/vis_data/metrics.json',
)


def test_every_backend_has_its_line():
    assert {name for _, name in LINES} == set(WRITTEN)


@pytest.mark.parametrize('line, name', LINES, ids=[name for _, name in LINES])
def test_a_run_is_logged(line, name, python, mini_data, tmp_path):
    pytest.importorskip(name.lower(), reason='make backends installs it')
    base = str(ROOT / 'configs/mini/dmformer-nano_mini-imagenet.py')
    text = CONFIG.format(base=base, line=line, data=str(mini_data / 'imagenet'))
    (tmp_path / 'config.py').write_text(text)
    result = python(
        ROOT / 'tools/train.py',
        'config.py',
        '--work-dir',
        'work',
        cwd=tmp_path,
        HOME=str(tmp_path / 'home'),
        **OFFLINE,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert list(tmp_path.glob(WRITTEN[name])), sorted(tmp_path.rglob('*'))
