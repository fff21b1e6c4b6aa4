# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones are found wherever a model has them, and folded, decayed and exported there."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')

from mmdmformer.checkpoints import deploy_options, find_backbones, fold_checkpoint
from mmdmformer.deploy import networks, verify
from mmdmformer.engine.model import build_model

RETINANET = Path(__file__).parents[2] / 'configs/mini/retinanet_dmformer-nano_fpn_mini-coco.py'
NANO = dict(type='mmdmformer.DMFormer', arch='nano')
IMAGES = dict(mean=[100.0] * 3, std=[60.0] * 3)


def retrieval():
    return dict(
        type='ImageToImageRetriever',
        image_encoder=[NANO, dict(type='GlobalAveragePooling')],
        prototype='unused.pth',
        data_preprocessor=dict(type='ClsDataPreprocessor', **IMAGES),
    )


def semi_supervised():
    detector = Config.fromfile(RETINANET).model
    detector.test_cfg.score_thr = 0.0
    return dict(
        type='SemiBaseDetector',
        detector=detector,
        data_preprocessor=dict(
            type='MultiBranchDataPreprocessor', data_preprocessor=detector.data_preprocessor
        ),
        semi_train_cfg=dict(),
        semi_test_cfg=dict(predict_on='student'),
    )


def distillation():
    student = Config.fromfile(RETINANET).model
    kind = 'KnowledgeDistillationSingleStageDetector'
    return dict(student, type=kind, teacher_config=str(RETINANET))


def self_supervised():
    return dict(
        type='MoCo',
        queue_len=8,
        feat_dim=8,
        backbone=NANO,
        neck=dict(type='MoCoV2Neck', in_channels=128, hid_channels=8, out_channels=8),
        head=dict(type='ContrastiveHead', loss=dict(type='CrossEntropyLoss')),
        data_preprocessor=dict(type='SelfSupDataPreprocessor', **IMAGES),
    )


# The toolbox, the model, where its backbones are, and which of them are trained.
CASES = {
    'retrieval': ('mmpretrain', retrieval, ['image_encoder.0'], 1),
    'semi-supervised': ('mmdet', semi_supervised, ['student.backbone', 'teacher.backbone'], 1),
    'distillation': ('mmdet', distillation, ['backbone'], 1),
    'self-supervised': (
        'mmpretrain',
        self_supervised,
        ['backbone', 'encoder_k.module.0'],
        1,
    ),
}
each_case = pytest.mark.parametrize('case', CASES)


def read(case):
    scope, model, *_ = CASES[case]
    cfg = Config(dict(model=model(), default_scope=scope))
    torch.manual_seed(0)
    return cfg


@each_case
def test_names(case):
    *_, names, trained = CASES[case]
    backbones = find_backbones(build_model(read(case)))
    assert list(backbones) == names
    assert {type(backbone).__name__ for backbone in backbones.values()} == {'DMFormer'}
    first = [p.requires_grad for p in list(backbones.values())[0].parameters()]
    assert any(first)


@each_case
def test_folded_checkpoint_fits_the_folded_model(case, tmp_path):
    cfg = read(case)
    plain = build_model(cfg)
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'plain.pth')
    fold_checkpoint(build_model(cfg), str(tmp_path / 'plain.pth'), tmp_path / 'folded.pth')
    options = dict(option.split('=') for option in deploy_options(plain, cfg.model))
    cfg.merge_from_dict(dict.fromkeys(options, True))
    folded = build_model(cfg)
    weights = torch.load(tmp_path / 'folded.pth')['state_dict']
    assert not folded.load_state_dict(weights, strict=True).missing_keys
    plain.eval(), folded.eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(*(find_backbones(m).values() for m in (plain, folded)), strict=True):
            torch.testing.assert_close(b(images), a(images), rtol=1e-4, atol=1e-4)


@each_case
def test_learning_rates_fall_with_depth(case):
    model = build_model(read(case))
    settings = dict(
        constructor='LayerDecayOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=1.0),
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    groups = build_optim_wrapper(model, settings).optimizer.param_groups
    rates = {id(parameter): group['lr'] for group in groups for parameter in group['params']}
    name, backbone = list(find_backbones(model).items())[0]
    assert rates[id(backbone.stem[0].weight)] == 0.5**6
    assert rates[id(backbone.stages[3].norm.weight)] == 0.5
    inside = {id(p) for p in backbone.parameters()}
    rest = [rate for key, rate in rates.items() if key not in inside]
    assert set(rest) <= {1.0}


@each_case
def test_backbone_is_exported_from_anywhere(case, tmp_path):
    cfg = read(case)
    torch.save(dict(state_dict=build_model(cfg).state_dict()), tmp_path / 'plain.pth')
    files = cfg, str(tmp_path / 'plain.pth')
    predict = verify.toolbox_model(*files, backbone_only=True)
    network = networks.build_network(*files, backbone_only=True)
    assert network.backbone.deploy
    results = list(verify.compare(predict, network, network, [(64, 96)], [1, 2]))
    assert len(results) == 4


def test_the_branch_that_answers_is_exported(tmp_path):
    cfg = read('semi-supervised')
    model = build_model(cfg)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'plain.pth')
    network = networks.build_network(cfg, str(tmp_path / 'plain.pth'))
    assert type(network).__name__ == 'RetinaBoxes'
    weight = network.neck.lateral_convs[0].conv.weight
    assert torch.equal(weight, model.student.neck.lateral_convs[0].conv.weight)
    assert not torch.equal(weight, model.teacher.neck.lateral_convs[0].conv.weight)
