# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from counting import count
from mmpretrain.models import VisionTransformer

from mmdmformer.backbones import DynamicViT

RELATIVE = dict(position='relative')
SCALING = dict(activation='scaling')
DEPTHWISE = dict(activation='none', kernel='depthwise')
GAP = dict(with_cls_token=False, out_type='avg_featmap')
# Arguments; parameters with 1000 classes; multiply-adds and activations without them, at 224 px.
VARIANTS = {
    'S softmax abs': (dict(), 22_050_664, 4_607_954_304, 11_947_272),
    'S scaling abs': (SCALING, 22_050_664, 4_366_485_888, 9_447_936),
    'S depthwise abs': (DEPTHWISE, 20_276_584, 3_901_704_576, 7_337_472),
    'S softmax rel': (RELATIVE, 22_027_504, 4_607_954_304, 11_947_272),
    'S scaling rel': ({**SCALING, **RELATIVE}, 22_027_504, 4_543_506_816, 10_351_104),
    'S depthwise rel': ({**DEPTHWISE, **RELATIVE}, 20_253_424, 4_078_725_504, 8_240_640),
    'B softmax abs': (dict(arch='deit-base'), 86_567_656, 17_581_972_224, 23_894_544),
    'B softmax rel': (dict(arch='deit-base', **RELATIVE), 86_521_336, 17_581_972_224, 23_894_544),
    'B depthwise rel': (
        dict(arch='deit-base', **DEPTHWISE, **RELATIVE),
        79_434_232,
        15_826_342_656,
        16_481_280,
    ),
}


def build(**kwargs):
    """A nano network with large random weights, so that everything takes part."""
    torch.manual_seed(0)
    model = DynamicViT('nano', **kwargs).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def build_on_meta(**kwargs):
    with torch.device('meta'):
        return DynamicViT(**kwargs)


def num_parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ('kwargs', 'parameters', 'multiply_adds', 'activations'), VARIANTS.values(), ids=VARIANTS
)
def test_published_sizes(kwargs, parameters, multiply_adds, activations):
    model = DynamicViT(**kwargs)
    head = model.embed_dims * 1000 + 1000
    assert num_parameters(model) + head == parameters
    assert count(model) == (multiply_adds, activations)


def test_size_of_affine_maps():
    plain, affine = (
        num_parameters(build_on_meta(activation='ln', **RELATIVE, ln_affine=a)) for a in (0, 1)
    )
    assert affine - plain == 4_728
    gap = build_on_meta(activation='ln', **RELATIVE, **GAP)
    assert num_parameters(gap) == plain + 12 * 2 * 196 - 384


@pytest.mark.parametrize('cls_token', [True, False])
@pytest.mark.parametrize('size', [(224, 224), (160, 96)])
def test_softmax_equals_mmpretrain(size, cls_token):
    kwargs = {} if cls_token else dict(with_cls_token=False, out_type='featmap')
    model = build(**kwargs)
    stock = VisionTransformer(model.arch_zoo['nano'], **kwargs).double()
    stock.eval()
    stock.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, *size).double()
    torch.testing.assert_close(model(x)[-1], stock(x)[-1])


def test_relative_positions_replace_the_absolute_ones():
    names = build(**RELATIVE, **GAP).state_dict().keys()
    assert not {'cls_token', 'pos_embed'} & names
    assert sum(name.endswith('relative_position_bias_table') for name in names) == 4
    absolute = build().state_dict()
    assert absolute['pos_embed'].shape == (1, 197, 64)
    assert not any(name.endswith('relative_position_bias_table') for name in absolute)


def test_average_of_the_patches_follows_the_last_norm():
    model = build(**RELATIVE, with_cls_token=False, out_type='featmap')
    average = build(**RELATIVE, **GAP)
    average.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 224, 224).double()
    featmap = model(x)[-1]
    assert featmap.shape == (2, 64, 14, 14)
    torch.testing.assert_close(average(x)[-1], featmap.mean(dim=(2, 3)))


@pytest.mark.parametrize('mode', [dict(), SCALING, DEPTHWISE, dict(activation='ln_relu')])
def test_relative_positions_follow_the_grid(mode):
    """Another grid gives what a network with interpolated tables for that grid gives."""
    model = build(**mode, **RELATIVE, ln_affine=False)
    other = build(**mode, **RELATIVE, ln_affine=False, img_size=128)
    other.load_state_dict(model.state_dict())
    assert other.layers[0].attn.relative_position_bias_table.shape == (225, 2)
    x = torch.rand(2, 3, 128, 128).double()
    torch.testing.assert_close(other(x)[-1], model(x)[-1])


def test_absolute_weights_do_not_disturb_relative_ones():
    model, weights = build(**RELATIVE), build().state_dict()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert unexpected == ['pos_embed']
    assert all(name.endswith('relative_position_bias_table') for name in missing)


def test_stages_end_where_quarters_of_the_depth_do():
    arch = dict(embed_dims=16, num_layers=6, num_heads=2, feedforward_channels=32)
    model = DynamicViT(arch, out_type='featmap', out_indices=(0, 1, 2, 3)).eval()
    assert model.stage_ends == [1, 3, 4, 6]
    x = torch.rand(1, 3, 64, 64)
    outs = model(x)
    stock = VisionTransformer(arch, out_type='featmap', out_indices=[0, 2, 3, 5])
    stock.eval()
    stock.load_state_dict(model.state_dict())
    for out, expected in zip(outs, stock(x), strict=True):
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('patch_size', [8, 16])
def test_pyramid_keeps_positions(patch_size):
    """What a pixel changes is where the pixel is, at each level and with padded borders."""
    model = build(out_type='pyramid', out_indices=(0, 1, 2, 3), patch_size=patch_size)
    for block in model.layers:
        torch.nn.init.zeros_(block.attn.proj.weight)  # no mixing
    x = torch.rand(1, 3, 7 * patch_size + 3, 4 * patch_size + 1).double()
    changed = x.clone()
    changed[..., 5 * patch_size + 1, 2 * patch_size + 1] += 1
    for i, (before, after) in enumerate(zip(model(x), model(changed), strict=True)):
        stride = patch_size * 2**i // 4
        assert before.shape[-2:] == tuple(-(-side // stride) for side in x.shape[-2:])
        unit = max(stride, patch_size)
        places = (after - before).abs().sum(dim=(0, 1)).nonzero() * stride // unit
        assert places.unique(dim=0).tolist() == [[5 * patch_size // unit, 2 * patch_size // unit]]


def test_initial_values():
    model = DynamicViT('deit-small', **RELATIVE, **GAP)
    model.init_weights()
    block = model.layers[0]
    for weight in (block.attn.qkv.weight, block.ffn.layers[1].weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attn.relative_position_bias_table.std().item() == pytest.approx(0.02, rel=0.1)
    assert not block.attn.qkv.bias.any()


def test_drop_path_rises_linearly():
    model = build_on_meta(arch='deit-small', drop_path_rate=0.1)
    rates = [block.drop_path.drop_prob for block in model.layers]
    assert rates == pytest.approx([0.1 * i / 11 for i in range(12)])


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='huge'), "arch='huge' is unknown: choose one of deit-s, deit-small"),
        (dict(arch=dict(num_layers=4)), 'must have exactly the keys embed_dims'),
        (
            dict(arch={**DynamicViT.arch_zoo['nano'], 'num_layers': 3}),
            'must have a num_layers of at least 4',
        ),
        (dict(position='none'), "position='none' is unknown: choose absolute or relative"),
        (dict(out_type='raw'), "out_type='raw' is unknown"),
        (dict(with_cls_token=False), "out_type='cls_token' needs with_cls_token=True"),
        (dict(out_type='pyramid', patch_size=14), 'patch_size=14 must be a multiple of 4'),
        (dict(drop_path_rate=1.0), 'drop_path_rate=1.0 must be'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DynamicViT(**{'arch': 'nano', **kwargs})


def test_affine_maps_need_images_of_one_size():
    model = DynamicViT('nano', activation='ln')
    with pytest.raises(ValueError, match='17 tokens meet .* for 197: set ln_affine=False'):
        model(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize('side', [64, 416])  # the latter's positions go through Fourier transforms
@pytest.mark.parametrize('out_type', ['cls_token', 'avg_featmap', 'featmap', 'pyramid'])
def test_empty_batch(out_type, side):
    mixer = dict(activation='scaling', position='relative')
    model = DynamicViT('nano', out_type=out_type, with_cls_token=out_type == 'cls_token', **mixer)
    full, empty = (model(torch.rand(batch, 3, side, side))[0] for batch in (1, 0))
    assert empty.shape == (0, *full.shape[1:])
    empty.sum().backward()
    assert model.layers[0].attn.relative_position_bias_table.grad.eq(0).all()
