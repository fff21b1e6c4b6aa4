# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torch.nn.functional as F
from mmdet.models import PyramidVisionTransformer
from torch import nn

from mmdmformer import PVTACmix
from mmdmformer.mixers import ACmixOperator

CLASSIFIER = 513 * 1000


def count(model):
    return sum(p.numel() for p in model.parameters())


def set_rates(model, alpha, beta):
    for module in model.modules():
        if isinstance(module, ACmixOperator):
            nn.init.constant_(module.rates.alpha, alpha)
            nn.init.constant_(module.rates.beta, beta)


@pytest.mark.parametrize(
    ('arch', 'acmix'), [('tiny', 13_396_128), ('s', 24_824_755), ('large', 62_297_329)]
)
def test_parameters(arch, acmix):
    model = PVTACmix(arch, cls_token=True)
    assert count(model) + CLASSIFIER == acmix
    # Without the class token, its position and its norm.
    assert count(PVTACmix(arch)) == count(model) - 4 * 512
    assert count(PVTACmix(arch, kv='shared')) == count(PVTACmix(arch))


def test_without_the_convolution_path_it_is_mmdets_pvt():
    arch = PVTACmix.arch_zoo['nano']
    theirs = PyramidVisionTransformer(
        embed_dims=16,
        **{('num_layers' if k == 'depths' else k): v for k, v in arch.items() if k != 'embed_dims'},
    )
    weights = {}
    for name, value in theirs.state_dict().items():
        name = name.replace('attn.sr.', 'attn.projection.reduce.')
        name = name.replace('attn.norm.', 'attn.projection.norm.')
        name = name.replace('attn.attn.out_proj.', 'attn.attention.proj.')
        before, in_projection, kind = name.partition('attn.attn.in_proj_')
        if in_projection:
            query, key, value = value.chunk(3)
            weights[f'{before}attn.projection.query.{kind}'] = query
            weights[f'{before}attn.projection.key_value.{kind}'] = torch.cat((key, value))
        else:
            weights[name] = value
    ours = PVTACmix('nano', out_indices=(0, 1, 2, 3)).double().eval()
    difference = ours.load_state_dict(weights, strict=False)
    assert not difference.unexpected_keys
    assert all('convolution' in name or 'rates' in name for name in difference.missing_keys)
    set_rates(ours, 1, 0)
    for size in [(64, 96), (75, 133)]:
        x = torch.rand(2, 3, *size).double()
        for out, expected in zip(ours(x), theirs.double().eval()(x), strict=True):
            torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('kv', ['upsample', 'shared'])
def test_how_keys_and_values_reach_the_grid(kv):
    projection = PVTACmix('nano', kv=kv).layers[1][1][1].attn.projection.double()
    tokens = torch.rand(2, 8 * 12, 32).double()
    (query, key_value), (query_map, key_value_map) = projection(tokens, (8, 12))
    assert key_value.shape == (2, 2 * 3, 64)
    torch.testing.assert_close(query_map.flatten(2).transpose(1, 2), query)
    if kv == 'shared':
        expected = projection.key_value(tokens).transpose(1, 2).unflatten(2, (8, 12))
    else:
        reduced = key_value.transpose(1, 2).unflatten(2, (2, 3))
        expected = reduced.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(key_value_map, expected)


def test_the_class_token_is_the_output():
    model = PVTACmix('nano', cls_token=True, out_indices=(2, 3)).double().eval()
    model.init_weights()
    x = torch.rand(2, 3, 64, 96).double()
    fmap, token = model(x)
    assert fmap.shape == (2, 80, 4, 6) and token.shape == (2, 128)
    normed = F.layer_norm(token, (128,), eps=1e-6)
    torch.testing.assert_close(token, normed, rtol=1e-3, atol=1e-3)  # weight 1, bias 0
    assert not torch.allclose(token[0], token[1])
    model.train()(x)[-1].square().mean().backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert not unused


def test_the_class_token_attends_and_is_not_convolved():
    model = PVTACmix('nano', cls_token=True).double()
    block = model.layers[3][1][1].attn
    tokens = torch.rand(1, 1 + 6, 128).double()
    set_rates(model, 0, 1)
    out = block(tokens, (2, 3))
    assert not out[:, 0].any() and out[:, 1:].any()
    set_rates(model, 1, 0)
    seen = block(tokens, (2, 3))[0, 0]
    tokens[0, 6] += 1
    assert not torch.allclose(block(tokens, (2, 3))[0, 0], seen)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(kv='bilinear'), "kv='bilinear' is unknown: choose one of upsample, shared"),
        (dict(cls_token=True, rates='convolution'), 'cls_token=True needs the attention path'),
        (
            dict(cls_token=True, arch={**PVTACmix.arch_zoo['nano'], 'sr_ratios': (8, 4, 2, 2)}),
            'needs 1 as the last of sr_ratios, not 2',
        ),
        (
            dict(arch={**PVTACmix.arch_zoo['nano'], 'num_heads': (3, 2, 5, 8)}),
            'num_heads=3 does not divide 16 channels',
        ),
        (dict(conv_kernel=2), 'kernel_size=2 must be odd'),
    ],
)
def test_wrong_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PVTACmix(**{'arch': 'nano', **kwargs})


@pytest.mark.parametrize('cls_token', [False, True])
def test_compile_breaks_no_graph(cls_token):
    """As users call it: ``fullgraph=True`` captures some of what breaks a graph otherwise."""
    torch.compiler.reset()
    model = PVTACmix('nano', cls_token=cls_token).eval()
    explanation = torch._dynamo.explain(model)(torch.rand(1, 3, 64, 96))
    assert explanation.graph_break_count == 0, explanation.break_reasons
