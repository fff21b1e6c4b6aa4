# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""SparK on DMFormer: what is masked stays out of everything, and the weights fit elsewhere."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model.utils import convert_sync_batchnorm, revert_sync_batchnorm
from mmpretrain.models.utils import SparseHelper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdmformer import DMFormer
from mmdmformer.engine.model import build_model
from mmdmformer.layers import LayerNorm2d
from mmdmformer.mixers.dma import ChannelGate

ROOT = Path(__file__).resolve().parents[2]
(CONFIG,) = (ROOT / 'configs/spark').glob('*.py')
SIDE, PATCH = 96, 32
SMALL = {'arch': 'nano', 'drop_path_rate': 0.0}


def build(mask_ratio=0.6, input_size=SIDE, **backbone):
    cfg = Config.fromfile(CONFIG)
    cfg.model.update(input_size=input_size, mask_ratio=mask_ratio)
    cfg.model.backbone.update({**SMALL, **backbone})
    cfg.model.neck.feature_dim = 64
    torch.manual_seed(0)
    model = build_model(cfg)
    model.init_weights()
    with torch.no_grad():  # no bias, shift or layer scale is without effect
        for parameter in model.backbone.parameters():
            if parameter.dim() == 1:
                parameter += 0.5 * torch.rand_like(parameter)
    return model.double()


@pytest.fixture
def images():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)).double()


def loss_of(model, images, seed=2):
    """The loss under the mask of a seed."""
    torch.manual_seed(seed)
    return model.loss(images, None)['loss']


def visible(side):
    """The mask of the last forward pass, of shape (B, 1, side, side)."""
    return F.interpolate(SparseHelper._cur_active.double(), size=(side, side))


@pytest.mark.parametrize('training', [True, False])
def test_pixels_of_masked_patches_change_no_feature_but_the_loss(images, training):
    model, outs = build().train(training), []
    model.backbone.register_forward_hook(lambda module, inputs, out: outs.append(out))
    loss = loss_of(model, images)
    share = visible(SIDE).mean(dim=(1, 2, 3))
    torch.testing.assert_close(share, torch.full((2,), 4 / 9).double())  # round(9 * 0.4) patches
    other_loss = loss_of(model, images + 100 * (1 - visible(SIDE)) * torch.rand_like(images))
    assert [out.shape[2] for out in outs[0]] == [24, 12, 6, 3]
    assert all(a.equal(b) for a, b in zip(*outs, strict=True))
    assert (loss - other_loss).abs() > 1e-3


def formula(module, x):
    """What a layer has to give for ``x``: dense layers on visible positions, zero elsewhere."""
    if isinstance(module, ChannelGate):
        mask = visible(x.shape[2])
        mean = (x * mask).sum((2, 3)) / mask.sum((2, 3))
        for layer in module.fcs:
            mean = layer(mean)
        return mean[:, :, None, None]
    if isinstance(module, nn.Conv2d):
        geometry = (module.stride, module.padding, module.dilation, module.groups)
        out = F.conv2d(x, module.weight, module.bias, *geometry)
    else:
        out = norm_formula(module, x)
    return out * visible(out.shape[2])


def norm_formula(norm, x):
    if isinstance(norm, nn.LayerNorm):
        mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    else:
        mean, var = visible_statistics(x)
    scaled = (x - mean) / (var + norm.eps).sqrt()
    return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]


def visible_statistics(x):
    mask = visible(x.shape[2])
    mean = (x * mask).sum((0, 2, 3), keepdim=True) / mask.sum()
    return mean, ((x - mean) ** 2 * mask).sum((0, 2, 3), keepdim=True) / mask.sum()


def test_every_layer_is_the_dense_one_on_visible_positions(images):
    model, checked = build().train(), []

    def check(module, inputs, out):
        checked.append(module)
        torch.testing.assert_close(out, formula(module, inputs[0]), rtol=1e-10, atol=1e-10)
        if isinstance(module, _BatchNorm):
            mean, var = visible_statistics(inputs[0])
            count = visible(inputs[0].shape[2]).sum()
            expected = [mean * 0.1, 0.9 + 0.1 * var * count / (count - 1)]
            for found, value in zip(
                [module.running_mean, module.running_var], expected, strict=True
            ):
                torch.testing.assert_close(found, value.flatten(), rtol=1e-10, atol=1e-10)

    kinds = nn.Conv2d, _BatchNorm, nn.LayerNorm, ChannelGate
    layers = [module for module in model.backbone.modules() if isinstance(module, kinds)]
    for layer in layers:
        layer.register_forward_hook(check)
    loss_of(model, images)
    assert len(checked) == len(layers) and set(checked) == set(layers)
    assert {kind: sum(isinstance(m, kind) for m in checked) for kind in kinds} == {
        # stem, downsampling, DMA and feed-forward parts of five blocks
        nn.Conv2d: 3 + 3 + 5 * (6 + 3),
        _BatchNorm: 3 + 3 + 5 * (2 + 4),
        nn.LayerNorm: 4,
        ChannelGate: 5,
    }


def test_every_map_is_zero_at_masked_positions(images):
    model, sides = build().train(), set()

    def check(module, inputs, out):
        if isinstance(out, torch.Tensor) and out.dim() == 4 and out.shape[2] > 1:
            sides.add(out.shape[2])
            hidden = (visible(out.shape[2]) == 0).expand_as(out)
            assert hidden.any() and not out[hidden].any()

    for module in model.backbone.modules():
        module.register_forward_hook(check)
    loss_of(model, images)
    assert sides == {48, 24, 12, 6, 3}


@pytest.mark.parametrize('training', [True, False])
def test_with_everything_visible_it_is_dmformer(images, training):
    sparse = build().backbone.train(training)
    plain = DMFormer('nano', out_indices=(0, 1, 2, 3)).double().train(training)
    plain.load_state_dict(sparse.state_dict())
    SparseHelper._cur_active = torch.ones(2, 1, 3, 3, dtype=torch.bool)
    for model in (sparse, plain):
        sum((out**3).sum() for out in model(images)).backward()
    for found, expected in zip(sparse(images), plain(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for (name, a), b in zip(sparse.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(sparse.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_checkpointed_activations_change_nothing(images):
    models = [build(with_cp=with_cp, drop_path_rate=0.5).train() for with_cp in (False, True)]
    for model in models:
        loss_of(model, images).backward()
    plain, checkpointed = models
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    for (name, a), b in zip(plain.named_buffers(), checkpointed.named_buffers(), strict=True):
        torch.testing.assert_close(a, b[1], msg=name)


def test_gradients_are_finite_in_mixed_precision(images):
    model = build().float().train()
    with torch.autocast('cpu', torch.bfloat16):
        loss = loss_of(model, images.float())
    exact = loss_of(build().train(), images)
    torch.testing.assert_close(loss.double(), exact, rtol=0.05, atol=0)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_batch_norms_stay_sparse_where_a_runner_exchanges_them(images):
    """A runner takes synchronized norms out on one device, and puts them in for `sync_bn`."""
    expected = loss_of(build().train(), images)
    synchronized = build(norm_cfg=dict(type='SyncBN'))
    assert any(isinstance(m, nn.SyncBatchNorm) for m in synchronized.backbone.modules())
    reverted = revert_sync_batchnorm(synchronized).train()
    torch.testing.assert_close(loss_of(reverted, images), expected)
    there_and_back = revert_sync_batchnorm(convert_sync_batchnorm(build())).train()
    torch.testing.assert_close(loss_of(there_and_back, images), expected)


@pytest.mark.parametrize('mixer', [dict(gate=False), dict(out_norm_act=False, residual=False)])
def test_the_papers_ablations_go_as_well(mixer, images):
    model, outs = build(mixer=mixer).train(), []
    model.backbone.register_forward_hook(lambda module, inputs, out: outs.append(out))
    loss_of(model, images)
    assert all(not out[(visible(out.shape[2]) == 0).expand_as(out)].any() for out in outs[0])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(mixer=dict(type='LocalAttention', head_dim=16)), 'has a LocalAttention, for which'),
        (dict(mixer=dict(type='Pooling')), 'has a Pooling, .* mixers of type=.DMA'),
        (dict(norm_cfg=dict(type='GN', num_groups=4)), 'has a GroupNorm, .* batch or layer norms'),
        (dict(act_cfg=dict(type='Sigmoid')), 'has a Sigmoid, .* ReLU or GELU'),
        (dict(deploy=True), 'has a FoldedBlock, .* deploy=False'),
        (dict(out_indices=(2, 3)), r'out_indices=\(2, 3\) must be \(0, 1, 2, 3\)'),
        (dict(input_size=100), r'input_size=100 .* a multiple of 32 pixels'),
        (dict(input_size=32), 'input_size=32 with mask_ratio=0.6 leaves 0 of 1 patches visible'),
        (dict(mask_ratio=0.0), 'mask_ratio=0.0 leaves 9 of 9 patches visible'),
    ],
)
def test_what_cannot_be_pretrained_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_images_of_another_size_are_refused(images):
    with pytest.raises(ValueError, match='images of 64x96 pixels for model.input_size=96'):
        build().loss(images[:, :, :64], None)


def write_pictures(folder, number=8, side=80):
    """Pictures of waves, in folders of folders and without labels."""
    rng, places = np.random.default_rng(0), np.arange(side)
    for i in range(number):
        rows, columns, shift = rng.uniform(0.05, 0.2, 2).tolist() + [rng.uniform(0, 6)]
        wave = np.sin(rows * places[:, None] + columns * places + shift)[..., None]
        path = folder / f'{i % 2}/{i % 3}/{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.uint8(127 + 100 * wave * rng.uniform(0.2, 1, 3)))


@pytest.fixture(scope='module')
def pretrained(python, tmp_path_factory):
    """The work directory of a short pretraining."""
    folder = tmp_path_factory.mktemp('spark')
    write_pictures(folder / 'pictures')
    settings = [
        *(f'train_dataloader.dataset.data_root={folder}/pictures', 'model.input_size=64'),
        *('train_dataloader.dataset.pipeline.1.scale=64', 'model.backbone.arch=nano'),
        *('train_dataloader.batch_size=8', 'train_dataloader.num_workers=0'),
        *('train_dataloader.persistent_workers=False', 'train_cfg.max_epochs=10'),
        *('model.neck.feature_dim=128', 'optim_wrapper.optimizer.lr=0.02', 'param_scheduler=[]'),
        *('default_hooks.logger.interval=1', 'log_processor.window_size=1'),
        *('default_hooks.checkpoint.interval=10',),
    ]
    options = ['--work-dir', folder / 'run', '--cfg-options', *settings]
    result = python(ROOT / 'tools/train.py', CONFIG, *options, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder / 'run'


def test_loss_goes_down(pretrained):
    (log,) = pretrained.glob('*/vis_data/scalars.json')
    losses = [json.loads(line)['loss'] for line in log.read_text().splitlines()]
    assert len(losses) == 10
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3]), losses


@pytest.mark.parametrize(
    'name',
    [
        'dmformer-nano_mini-imagenet',
        'retinanet_dmformer-nano_fpn_mini-coco',
        'dmformer-nano_sem-fpn_mini-ade20k',
    ],
)
def test_weights_load_into_every_task_name_by_name(pretrained, name):
    checkpoint = pretrained / 'epoch_10.pth'
    cfg = Config.fromfile(ROOT / f'configs/mini/{name}.py')
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint=str(checkpoint), prefix='backbone.'
    )
    model = build_model(cfg)
    model.init_weights()
    saved = torch.load(checkpoint, weights_only=False)['state_dict']
    found = {f'backbone.{name}': value for name, value in model.backbone.state_dict().items()}
    assert found.keys() == {name for name in saved if name.startswith('backbone.')}
    assert [key for key, value in found.items() if not value.equal(saved[key])] == []
    assert type(model.backbone) is DMFormer
    assert {type(m) for m in model.backbone.modules()} >= {nn.Conv2d, nn.BatchNorm2d, LayerNorm2d}


def test_the_loaded_backbone_folds(pretrained):
    init_cfg = dict(type='CheckedPretrained', checkpoint=str(pretrained / 'epoch_10.pth'))
    backbone = DMFormer('nano', init_cfg=init_cfg, out_indices=(0, 1, 2, 3))
    backbone.init_weights()
    folded = copy.deepcopy(backbone.double().eval())
    folded.switch_to_deploy()
    image = torch.rand(1, 3, 64, 96).double()
    for expected, out in zip(backbone(image), folded(image), strict=True):
        torch.testing.assert_close(out, expected)
