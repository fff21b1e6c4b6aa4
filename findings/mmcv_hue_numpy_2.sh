#!/usr/bin/env bash
# mmcv-lite 2.1.0 with numpy 2.4.6: turning the hue of an image backwards ends in an OverflowError.
#
# Expected: mmcv.adjust_hue(image, -0.1) turns hues back by a tenth of the circle, as with numpy 1, where
# -25 wraps to 231.
# What happens: numpy 2 refuses negative numbers for uint8. A factor between 0 and -1/255 passes, as it
# rounds to 0. Pipelines with ColorJitter(hue=...), as self-supervised recipes have, stop at a random image,
# since the factor is drawn from both signs.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mmcv-lite==2.1.0 mmengine==0.10.7 numpy==2.4.6 opencv-python-headless==4.13.0.92 setuptools==80.9.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import mmcv
import numpy as np

print('mmcv', mmcv.__version__, 'numpy', np.__version__)
image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
forward = mmcv.adjust_hue(image, 0.1)
print('forward: changed', int((forward != image).sum()), 'of', image.size, 'values')
assert (forward != image).any()
try:
    mmcv.adjust_hue(image, -0.1)
except OverflowError as error:
    print('backward:', type(error).__name__, error)
else:
    raise SystemExit('changed: a negative hue factor works')
PYTHON
echo 'As described: a negative hue factor fails.'
