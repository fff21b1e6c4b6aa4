# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Backbones are found wherever a model has them, and folded, decayed and exported there."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')

from mmdmformer.analysis.schedule import compute_schedule
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


def test_soft_teacher_of_mmdet_learns_from_both_branches():
    """mmdet's own config, with our backbone in its detector."""
    import mmdet
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    stock = Path(mmdet.__file__).parent / '.mim/configs/soft_teacher'
    cfg = Config.fromfile(stock / 'soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py')
    detector = cfg.model.detector
    detector.backbone = dict(NANO, out_indices=(0, 1, 2, 3))
    detector.neck.in_channels = [16, 32, 80, 128]
    thresholds = ('pseudo_label_initial_score_thr', 'rpn_pseudo_thr', 'cls_pseudo_thr')
    cfg.model.semi_train_cfg.update(dict.fromkeys(thresholds, 0.0))
    cfg.train_cfg.max_iters = 10
    torch.manual_seed(0)
    model = build_model(cfg).train()
    assert list(find_backbones(model)) == ['student.backbone', 'teacher.backbone']

    sides = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (64, 64))
    sample = DetDataSample(
        metainfo=dict(
            **sides, img_id=0, scale_factor=(1.0, 1.0), homography_matrix=torch.eye(3).numpy()
        ),
        gt_instances=InstanceData(
            bboxes=torch.tensor([[4.0, 4.0, 40.0, 40.0]]), labels=torch.tensor([1])
        ),
    )
    branches = ('sup', 'unsup_student', 'unsup_teacher')
    losses = model.loss(
        {branch: torch.rand(1, 3, 64, 64) for branch in branches},
        {branch: [copy.deepcopy(sample)] for branch in branches},
    )
    total, _ = model.parse_losses(losses)
    total.backward()
    assert {name.split('_')[0] for name in losses} == {'sup', 'unsup'}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {id(p) for p in trained} <= {id(p) for p in model.student.parameters()}
    assert all(p.grad is not None for p in model.student.backbone.parameters())

    schedule = compute_schedule(cfg, images=(64, 'given'), quiet=True)
    assert schedule.num_iterations == 10 and schedule.epoch_length == 64 / 5
    # Without paramwise_cfg, mmengine hands the frozen teacher to the optimizer as well.
    assert sum(g.num_parameters for g in schedule.groups) == sum(
        p.numel() for p in model.parameters()
    )
