#!/usr/bin/env bash
# mmpretrain 1.2.0 beside transformers 5.24.0: none of mmpretrain's models can be imported.
#
# Expected: mmpretrain's classifiers have nothing to do with transformers, which it lists as optional
# ("pycocotools" and "transformers>=4.28.0" for networks that take images and text), so a newer
# transformers, such as peft brings, changes nothing for them.
# What happens: `import mmpretrain.models` raises "TypeError: NoneType takes no arguments". mmpretrain
# catches that transformers has no `apply_chunking_to_forward` and `find_pruneable_heads_and_indices`
# any more, sets its base class to None, and then derives from it. Without transformers it imports.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install -q "$@"; }
pip torch==2.11.0 torchvision==0.26.0 numpy==2.4.6 setuptools==80.10.2 opencv-python-headless==4.14.0.94
pip mmengine==0.10.7 mmcv-lite==2.1.0 mmpretrain==1.2.0 pycocotools==2.0.11
try() { "$folder/venv/bin/python" -c 'import mmpretrain.models; print("imported")' 2>&1 | tail -n 1 || true; }
before=$(try)
echo "without transformers: $before"
pip transformers==5.24.0
after=$(try)
echo "beside transformers 5.24.0: $after"
[ "$before" = imported ]
[ "$after" = 'TypeError: NoneType takes no arguments' ]
echo 'As described: transformers 5 takes all of mmpretrain away.'
