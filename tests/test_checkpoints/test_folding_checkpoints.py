# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Folded checkpoints serve every task as the plain ones do."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from torch import nn

from mmdmformer.checkpoints import CheckpointError, fold_checkpoint
from mmdmformer.engine.model import build_model

MINI = Path(__file__).parents[2] / 'configs/mini'
MINI_CONFIGS = sorted(MINI.glob('*dmformer*.py'))


def save_with_statistics(cfg, path):
    """Save a model whose batch norms have statistics as after training."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.7, 1.4)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    torch.save({'state_dict': model.state_dict()}, path)
    return model


def predict(model, cfg):
    """What the model's own test step gives for two images, as a list of tensors."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 96, 128), generator=generator, dtype=torch.uint8)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.no_grad():
        data = dict(inputs=list(images), data_samples=[_sample(cfg.default_scope) for _ in images])
        if cfg.default_scope == 'mmpretrain':
            data['inputs'] = images
        samples = model.test_step(data)
    if cfg.default_scope == 'mmpretrain':
        return [s.pred_score for s in samples]
    if cfg.default_scope == 'mmseg':
        return [s.seg_logits.data for s in samples] + [s.pred_sem_seg.data for s in samples]
    found = [s.pred_instances for s in samples]
    assert all(len(f) for f in found)
    names = ['scores', 'labels', 'bboxes'] + ['masks'] * ('masks' in found[0])
    # by label and place, as an untrained model's scores are ties but for rounding
    orders = [(1e5 * f.labels + f.bboxes.double().sum(1)).argsort() for f in found]
    return [f[name][order] for f, order in zip(found, orders, strict=True) for name in names]


def _sample(scope):
    meta = dict(img_shape=(96, 128), ori_shape=(96, 128), pad_shape=(96, 128))
    meta.update(scale_factor=(1.0, 1.0), padding_size=[0] * 4, flip=False)
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample
    elif scope == 'mmdet':
        from mmdet.structures import DetDataSample as DataSample
    else:
        from mmseg.structures import SegDataSample as DataSample
    return DataSample(metainfo=meta)


def read(path):
    cfg = Config.fromfile(path)
    if cfg.model.type == 'RetinaNet':
        cfg.model.test_cfg.score_thr = 0.0  # an untrained model is sure of nothing
    if cfg.model.type == 'MaskRCNN':
        cfg.model.test_cfg.rcnn.score_thr = 0.0
    return cfg


@pytest.mark.parametrize('path', MINI_CONFIGS, ids=lambda path: path.stem)
def test_same_predictions_before_and_after(path, tmp_path):
    cfg = read(path)
    plain = save_with_statistics(cfg, tmp_path / 'plain.pth')
    fold_checkpoint(build_model(cfg), str(tmp_path / 'plain.pth'), tmp_path / 'new' / 'folded.pth')
    cfg.model.backbone.deploy = True
    folded = build_model(cfg).eval()
    load_checkpoint(folded, str(tmp_path / 'new' / 'folded.pth'), strict=True)
    for a, b in zip(predict(folded, cfg), predict(plain, cfg), strict=True):
        if a.is_floating_point():
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        else:
            assert (a == b).float().mean() > 0.999  # a pixel on the border of two classes


def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path):
    cfg = read(MINI_CONFIGS[0])
    save_with_statistics(cfg, tmp_path / 'plain.pth')
    other = Config.fromfile(MINI_CONFIGS[0])
    other.model.head.num_classes = 7
    with pytest.raises(CheckpointError, match=r'plain\.pth does not fit the model of the config'):
        fold_checkpoint(build_model(other), str(tmp_path / 'plain.pth'), tmp_path / 'folded.pth')
    cfg.model.backbone.deploy = True
    with pytest.raises(ValueError, match='is folded already'):
        fold_checkpoint(build_model(cfg), str(tmp_path / 'plain.pth'), tmp_path / 'folded.pth')
    assert not (tmp_path / 'folded.pth').exists()


def test_other_backbones_have_no_folded_form(tmp_path):
    cfg = read(MINI_CONFIGS[0])
    cfg.model.backbone = dict(type='mmpretrain.ResNet', depth=18)
    with pytest.raises(ValueError, match='a ImageClassifier with ResNet has no folded form'):
        fold_checkpoint(build_model(cfg), 'unused.pth', tmp_path / 'folded.pth')
