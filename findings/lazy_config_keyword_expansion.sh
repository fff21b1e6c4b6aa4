#!/usr/bin/env bash
# mmengine 0.10.7: a pure Python config whose parts are put together anew can no longer be written down.
#
# Expected: ConfigDict(**part) holds what the part holds, so that a config of real classes that was
# read with Config.fromfile prints, and is dumped by a run, after its model was wrapped. mmdetection's
# tools/test.py wraps it so for --tta: cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model).
# What happens: expanding a part of a pure Python config builds its lazy classes, so the new part holds
# a class instead of its name; Config.pretty_text, which Runner.from_cfg writes to the log, then hands
# "<class ...>" to yapf and ends with a SyntaxError. Setting the module in the part itself works.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.11.0 numpy==2.4.6 setuptools==80.10.2 \
    opencv-python-headless==4.14.0.94 mmengine==0.10.7
cat > "$folder/config.py" <<'PYTHON'
from mmengine.model import BaseTTAModel, ImgDataPreprocessor

model = dict(type=ImgDataPreprocessor)
tta_model = dict(type=BaseTTAModel)
PYTHON
"$folder/venv/bin/python" - "$folder/config.py" <<'PYTHON'
import sys

import mmengine
from mmengine.config import Config, ConfigDict


def wrap_by_expansion(cfg):
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def wrap_in_place(cfg):
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


print('mmengine', mmengine.__version__)
outcomes = {}
for wrap in (wrap_in_place, wrap_by_expansion):
    cfg = Config.fromfile(sys.argv[1])
    wrap(cfg)
    try:
        text = cfg.pretty_text
        outcomes[wrap.__name__] = 'written' if 'BaseTTAModel' in text else text
    except SyntaxError as error:
        outcomes[wrap.__name__] = 'SyntaxError' if '<class' in str(error) else str(error)
    print(f'{wrap.__name__}: {outcomes[wrap.__name__]}')
assert outcomes == dict(wrap_in_place='written', wrap_by_expansion='SyntaxError'), outcomes
PYTHON
echo 'As described: a part of a pure Python config that was expanded cannot be written down.'
