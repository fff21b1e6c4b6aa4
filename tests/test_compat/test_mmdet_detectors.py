# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""mmdet's own RetinaNet and Mask R-CNN on the bridge, and their checkpoints."""

import mmdmformer  # noqa: F401  (makes mmcv.ops importable, hence first)

# isort: split
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmdmformer.checkpoints import CheckpointError

mmdet = pytest.importorskip('mmdet')
from mmdet.apis import init_detector  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs' / '_base_' / 'models'


def config(name):
    """mmdet's own model on a thin ResNet-18, for three classes and without downloads."""
    cfg = Config.fromfile(CONFIGS / f'{name}_r50_fpn.py')
    cfg.model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    cfg.model.neck.update(in_channels=[8, 16, 32, 64])
    if name == 'retinanet':
        cfg.model.bbox_head.num_classes = 3
        cfg.model.test_cfg.score_thr = 0.0
    else:
        for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
            head.num_classes = 3
        cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=10)
    cfg.default_scope = 'mmdet'

    return cfg


@pytest.fixture
def batch():
    """An image of noise with two objects."""
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, 8:40, 8:30] = masks[1, 30:60, 24:60] = 1
    sample = DetDataSample(
        metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0), img_id=0)
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 30, 40], [24, 30, 60, 60]]),
        labels=torch.tensor([0, 2]),
        masks=BitmapMasks(masks, 64, 64),
    )
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    return dict(inputs=[image], data_samples=[sample])


@pytest.mark.parametrize('name', ['retinanet', 'mask-rcnn'])
def test_train_predict_and_load(name, batch, tmp_path):
    torch.manual_seed(0)
    init_default_scope('mmdet')
    model = MODELS.build(config(name).model)
    model.train()
    total, log = model.parse_losses(
        model(**model.data_preprocessor(batch, training=True), mode='loss')
    )
    total.backward()
    parts = dict(retinanet={'loss_cls', 'loss_bbox'})
    parts['mask-rcnn'] = {*parts['retinanet'], 'loss_rpn_cls', 'loss_rpn_bbox', 'loss_mask', 'acc'}
    assert log.keys() == parts[name] | {'loss'}
    assert all(value.isfinite() and value >= 0 for value in log.values())
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad.isfinite().all() for p in trained)
    assert model.backbone.layer2[0].conv1.weight.grad.abs().sum() > 0

    model.eval()
    found = predict(model, batch)
    assert 0 < len(found) <= (100 if name == 'retinanet' else 10)
    assert found.bboxes.shape == (len(found), 4) and found.scores.isfinite().all()
    assert found.bboxes.min() >= 0 and found.bboxes.max() <= 64
    if name == 'mask-rcnn':
        assert found.masks.shape == (len(found), 64, 64)

    # mmdet's own way to load a model takes this checkpoint, and none that brings code along.
    file, marker = str(tmp_path / 'model.pth'), tmp_path / 'marker'
    content = dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=list('abc'))))
    torch.save(content, file)
    again = predict(init_detector(config(name), file, palette='coco', device='cpu'), batch)
    assert torch.equal(again.bboxes, found.bboxes) and torch.equal(again.scores, found.scores)

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    torch.save(dict(content, payload=Payload()), file)
    with pytest.raises(CheckpointError, match='posix.mkdir'):
        init_detector(config(name), file, palette='coco', device='cpu')
    assert not marker.exists()


@torch.no_grad()
def predict(model, batch):
    data = model.data_preprocessor(batch, training=False)
    return model(**data, mode='predict')[0].pred_instances
