#!/usr/bin/env bash
# mmpretrain 1.2.0: SparK on one device trains with dense batch norms, without a word.
#
# Expected: SparK's ResNet computes from visible patches alone. Its batch norms, SparseSyncBatchNorm2d,
# take the statistics of visible positions and give zero at masked ones.
# What happens: without distributed training, mmengine's Runner puts a plain batch norm in the place of
# every nn.SyncBatchNorm, and SparseSyncBatchNorm2d is one. The zeros of masked positions then count in
# the statistics, and masked positions no longer are zero. With norm_cfg=dict(type='SparseBatchNorm2d'),
# which is no nn.SyncBatchNorm, the network stays sparse.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install -q "$@"; }
pip torch==2.11.0 torchvision==0.26.0 numpy==2.4.6 setuptools==80.10.2 opencv-python-headless==4.14.0.94
pip mmengine==0.10.7 mmcv-lite==2.1.0 mmpretrain==1.2.0
cat > "$folder/spark.py" <<'PYTHON'
import sys

import torch
from mmengine.runner import Runner
from mmpretrain.models.utils import SparseHelper

norm, folder = sys.argv[1:]
model = dict(
    type='SparK',
    input_size=64,
    enc_dec_norm_dim=512,
    backbone=dict(
        type='SparseResNet', depth=18, out_indices=(0, 1, 2, 3), norm_cfg=dict(type=norm)
    ),
    neck=dict(type='SparKLightDecoder', feature_dim=64, upsample_ratio=32),
    head=dict(type='SparKPretrainHead', loss=dict(type='PixelReconstructionLoss', criterion='L2')),
)
runner = Runner(model, folder, default_scope='mmpretrain', experiment_name=norm)
backbone = runner.model.backbone
SparseHelper._cur_active = torch.tensor([[[[True, False], [False, False]]]]).repeat(4, 1, 1, 1)
images = torch.rand(4, 3, 64, 64)
images[:, :, 32:] = images[:, :, :, 32:] = 0
maps = backbone(images)[0]
masked = torch.cat([maps[:, :, 8:].flatten(), maps[:, :, :8, 8:].flatten()])
share = masked.ne(0).float().mean()
found = f'{norm} became {type(backbone.bn1).__name__}'
print(f'{found}; of the first map at masked positions, not zero: {share:.0%}')
PYTHON
try() { "$folder/venv/bin/python" "$folder/spark.py" "$1" "$folder" 2> "$folder/log" | tail -n 1; }
synchronized=$(try SparseSyncBatchNorm2d)
echo "$synchronized"
plain=$(try SparseBatchNorm2d)
echo "$plain"
[[ $synchronized == 'SparseSyncBatchNorm2d became _BatchNormXd;'* && $synchronized != *' 0%' ]]
[[ $plain == 'SparseBatchNorm2d became SparseBatchNorm2d;'*' 0%' ]]
echo 'As described: on one device the sparse batch norms are gone.'
