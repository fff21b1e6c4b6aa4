# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The configs of docs/sister_toolboxes.md, each for a step (requirements/sisters.txt)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/sister_toolboxes.md').read_text()
BLOCKS = re.findall('^```python\n(.*?)^```', PAGE, re.M | re.S)
BUILD = """
import sys
import torch
from mmengine.config import Config
from mmdmformer.engine.model import build_model

torch.manual_seed(0)
cfg = Config.fromfile('config.py')
model = build_model(cfg).train()
assert type(model.backbone).__name__ == 'DMFormer'
"""
# A step of training on made-up images, in each toolbox's own words.
STEPS = {
    'mmpose': """
from mmpose.testing import get_packed_inputs
batch = model.data_preprocessor(get_packed_inputs(2), True)
losses = model(**batch, mode='loss')
""",
    'mmaction': """
from mmaction.structures import ActionDataSample
samples = [ActionDataSample().set_gt_label(label) for label in (1, 2)]
losses = model(torch.rand(2, 3, 3, 64, 64), samples, mode='loss')
""",
    'mmyolo': """
boxes = torch.tensor([[0, 1, 4, 4, 40, 40], [1, 2, 8, 8, 60, 50.0]])
samples = dict(bboxes_labels=boxes, img_metas=[dict(batch_input_shape=(64, 64))] * 2)
losses = model(torch.rand(2, 3, 64, 64), samples, mode='loss')
""",
}
END = """
total, _ = model.parse_losses(losses)
total.backward()
assert all(p.grad is not None for p in model.backbone.parameters())
print(float(total))
"""


def run(code, folder):
    command = [sys.executable, '-W', 'ignore', '-c', code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize('toolbox', STEPS)
def test_a_step_of_training(toolbox, tmp_path):
    pytest.importorskip(toolbox, reason='make sisters installs it')
    (block,) = (block for block in BLOCKS if f"'{toolbox}::" in block)
    (tmp_path / 'config.py').write_text(block)
    assert 0 < float(run(BUILD + STEPS[toolbox] + END, tmp_path)) < 1e4


def test_sahi_slices_pictures(tmp_path):
    pytest.importorskip('sahi', reason='make sisters installs it')
    (block,) = (block for block in BLOCKS if 'sahi' in block)
    detector = ROOT / 'configs/mini/retinanet_dmformer-nano_fpn_mini-coco.py'
    prepare = f"""
import cv2, numpy
from mmengine.config import Config
from mmdmformer.engine.model import save_untrained
Config.fromfile({str(detector)!r}).dump('my_detector.py')
save_untrained('my_detector.py', 'epoch_12.pth')
cv2.imwrite('photo.jpg', numpy.full((600, 700, 3), 128, numpy.uint8))
"""
    run(prepare + "print('made')", tmp_path)
    assert run(block + "\nprint('prediction' in found.durations_in_seconds)", tmp_path) == 'True'
