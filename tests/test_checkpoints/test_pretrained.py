# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import copy

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader

from mmdmformer import DMFormer


def make_backbone(**init_cfg):
    return DMFormer('nano', init_cfg=dict(type='CheckedPretrained', **init_cfg))


@pytest.fixture(scope='module')
def weights():
    torch.manual_seed(0)
    return {
        k: torch.rand_like(v) if v.is_floating_point() else v
        for k, v in DMFormer('nano').state_dict().items()
    }


def save(path, content):
    torch.save(content, path)
    return str(path)


def with_prefix(weights, prefix):
    return {prefix + name: value for name, value in weights.items()}


HEAD = {'head.fc.weight': torch.rand(10, 128), 'head.fc.bias': torch.rand(10)}


def assert_loaded(model, weights):
    model.init_weights()
    for name, value in model.state_dict().items():
        assert value.equal(weights[name]), name


@pytest.mark.parametrize(
    'wrap',
    [
        lambda w: w,
        lambda w: {'state_dict': w},
        lambda w: {'state_dict': {**with_prefix(w, 'backbone.'), **HEAD}, 'meta': {}},
        lambda w: {'state_dict': with_prefix(w, 'module.backbone.')},
        lambda w: {'model': with_prefix(w, 'module.')},
        lambda w: {
            'state_dict': {n: torch.zeros_like(v) for n, v in w.items()},
            'state_dict_ema': with_prefix(w, 'module.'),
        },
        lambda w: {
            'state_dict': with_prefix(w, 'backbone.'),
            'ema_state_dict': {
                'steps': torch.tensor(3),
                **{'module.backbone.' + n: torch.zeros_like(v) for n, v in w.items()},
            },
        },
    ],
    ids=['bare', 'state_dict', 'classifier', 'ddp', 'model', 'timm ema', 'mmengine ema'],
)
def test_finds_the_prefix(wrap, weights, tmp_path):
    path = save(tmp_path / 'w.pth', wrap(weights))
    assert_loaded(make_backbone(checkpoint=path), weights)


def test_the_common_spelling_is_checked_too(weights, tmp_path):
    path = save(tmp_path / 'w.pth', with_prefix(weights, 'encoder.'))
    assert_loaded(DMFormer('nano', init_cfg=dict(type='Pretrained', checkpoint=path)), weights)
    missing = save(tmp_path / 'm.pth', {'a.b': torch.rand(1)})
    with pytest.raises(RuntimeError, match='holds no tensor of this backbone'):
        DMFormer('nano', init_cfg=dict(type='Pretrained', checkpoint=missing)).init_weights()


@pytest.mark.parametrize('prefix', ['encoder', 'encoder.'])
@pytest.mark.parametrize('kind', ['Pretrained', 'CheckedPretrained'])
def test_prefix_is_given_with_or_without_its_dot(kind, prefix, weights, tmp_path):
    """As mmengine takes it."""
    others = with_prefix({n: torch.zeros_like(v) for n, v in weights.items()}, 'encoder_old.')
    path = save(tmp_path / 'w.pth', {**with_prefix(weights, 'encoder.'), **others})
    init_cfg = dict(type=kind, checkpoint=path, prefix=prefix)
    assert_loaded(DMFormer('nano', init_cfg=init_cfg), weights)


def test_other_initializers_come_before_the_checkpoint(weights, tmp_path):
    path = save(tmp_path / 'w.pth', weights)
    init_cfg = [
        dict(type='Pretrained', checkpoint=path),
        dict(type='Constant', layer='Conv2d', val=7.0),
    ]
    assert_loaded(DMFormer('nano', init_cfg=init_cfg), weights)


@MODELS.register_module(force=True)
class _NestedBackbone(BaseModule):
    """A network of a toolbox, whose children initialize themselves."""

    class Child(BaseModule):
        def __init__(self):
            super().__init__(init_cfg=dict(type='Constant', layer='Linear', val=3.0))
            self.fc = torch.nn.Linear(2, 2)

    def __init__(self, init_cfg):
        super().__init__(init_cfg)
        self.a, self.b = self.Child(), self.Child()


@pytest.mark.parametrize('allow_partial', [False, True])
def test_children_do_not_overwrite_the_loaded_weights(allow_partial, tmp_path):
    source = _NestedBackbone(None).state_dict()
    if allow_partial:
        del source['b.fc.weight']
    path = save(tmp_path / 'w.pth', source)
    init_cfg = dict(type='CheckedPretrained', checkpoint=path, allow_partial=allow_partial)
    model = _NestedBackbone(init_cfg)
    model.init_weights()
    for name, value in source.items():
        assert model.state_dict()[name].equal(value), name
    if allow_partial:
        assert (model.b.fc.weight == 3).all()


def damage(weights, kind):
    weights = copy.copy(weights)
    name = 'stages.2.blocks.1.mixer.reduce.weight'
    if kind == 'missing':
        del weights[name]
    elif kind == 'unexpected':
        weights['stages.2.blocks.2.layer_scale_1'] = torch.rand(80)
    else:
        weights[name] = torch.rand(80, 160, 1, 1)
    return weights


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('missing', r'missing: stages\.2\.blocks\.1\.mixer\.reduce\.weight\. Take'),
        ('unexpected', r'unexpected: stages\.2\.blocks\.2\.layer_scale_1\. Take'),
        ('shape', r'reduce\.weight \(80, 160, 1, 1\) instead of \(80, 320, 1, 1\)\. Take'),
    ],
)
def test_refuses_what_does_not_fit(kind, message, weights, tmp_path):
    path = save(tmp_path / 'w.pth', with_prefix(damage(weights, kind), 'backbone.'))
    model = make_backbone(checkpoint=path)
    with pytest.raises(RuntimeError, match=message):
        model.init_weights()


@pytest.mark.parametrize('kind', ['missing', 'unexpected', 'shape'])
def test_partial_load_is_listed(kind, weights, tmp_path, capsys):
    damaged = damage(weights, kind)
    path = save(tmp_path / 'w.pth', damaged)
    MMLogger.get_instance('pretrained-test')
    model = make_backbone(checkpoint=path, allow_partial=True)
    model.init_weights()
    own = model.state_dict()
    loaded = [n for n, v in damaged.items() if n in own and own[n].equal(v)]
    assert len(loaded) == len(own) - (kind != 'unexpected')
    log = capsys.readouterr()
    log = log.out + log.err
    assert 'fits DMFormer in part only' in log
    assert ('stages.2.blocks.2.layer_scale_1' if kind == 'unexpected' else 'reduce.weight') in log


def test_a_model_of_another_architecture_is_refused(tmp_path):
    path = save(
        tmp_path / 'w.pth',
        DMFormer(
            dict(embed_dims=(16, 32, 80, 128), depths=(1, 1, 3, 1), ffn_ratios=(8, 8, 4, 4))
        ).state_dict(),
    )
    with pytest.raises(RuntimeError, match=r'unexpected: stages\.2\.blocks\.2'):
        make_backbone(checkpoint=path).init_weights()


def test_two_copies_are_ambiguous(weights, tmp_path):
    both = {**with_prefix(weights, 'student.'), **with_prefix(weights, 'teacher.')}
    path = save(tmp_path / 'w.pth', both)
    with pytest.raises(RuntimeError, match="under both 'student.' and 'teacher.': choose one"):
        make_backbone(checkpoint=path).init_weights()
    assert_loaded(make_backbone(checkpoint=path, prefix='teacher.'), weights)


def test_no_checkpoint_is_said(capsys):
    MMLogger.get_instance('pretrained-test')
    make_backbone(checkpoint=None).init_weights()
    log = capsys.readouterr()
    assert 'DMFormer trains from scratch: no pretrained checkpoint is given.' in log.out + log.err


@pytest.mark.parametrize(
    ('kind', 'one', 'other'),
    [
        ('DynamicSwin', dict(window_size=7), dict(window_size=12)),
        ('DynamicViT', dict(img_size=64), dict(img_size=96)),
        ('DynamicViT', dict(img_size=64, position='relative'), dict(img_size=96)),
    ],
)
def test_tables_of_another_size_are_interpolated(kind, one, other, tmp_path):
    source = MODELS.build(dict(type=kind, arch='nano', **one))
    path = save(tmp_path / 'weights.pth', with_prefix(source.state_dict(), 'backbone.'))
    options = dict(type=kind, arch='nano', **{**one, **other})
    expected = MODELS.build(options)
    expected.load_state_dict(source.state_dict())
    model = MODELS.build(dict(options, init_cfg=dict(type='CheckedPretrained', checkpoint=path)))
    assert_loaded(model, expected.state_dict())


def test_table_of_another_number_of_heads_is_refused(tmp_path):
    source = MODELS.build(dict(type='DynamicSwin', arch='nano'))
    weights = source.state_dict()
    table = 'stages.0.blocks.0.attn.w_msa.relative_position_bias_table'
    weights[table] = weights[table].repeat(1, 2)
    init_cfg = dict(type='CheckedPretrained', checkpoint=save(tmp_path / 'weights.pth', weights))
    model = MODELS.build(dict(type='DynamicSwin', arch='nano', init_cfg=init_cfg))
    with pytest.raises(RuntimeError, match=f'{table} .169, 2. instead of .169, 1.'):
        model.init_weights()


def test_class_in_place_of_its_name_is_checked():
    """As pure Python configs write it; mmengine's own would only log that nothing fits."""
    from mmengine.model import PretrainedInit

    backbone = DMFormer('nano', init_cfg=dict(type=PretrainedInit, checkpoint='x.pth'))
    assert [cfg['type'] for cfg in backbone.init_cfg if 'checkpoint' in cfg] == [
        'CheckedPretrained'
    ]


def test_weights_of_the_package_have_a_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone = make_backbone(checkpoint='mmdmformer://dmformer-nano_cifar10')
    content = CheckpointLoader.load_checkpoint('mmdmformer://dmformer-nano_cifar10')
    assert len(content['meta']['dataset_meta']['classes']) == 10
    weights = {
        name.removeprefix('backbone.'): value.float() if value.is_floating_point() else value
        for name, value in content['state_dict'].items()
        if name.startswith('backbone.')
    }
    assert_loaded(backbone, weights)
    with pytest.raises(FileNotFoundError, match="'dmformer-x' come with .* dmformer-nano_cifar10"):
        make_backbone(checkpoint='mmdmformer://dmformer-x').init_weights()
