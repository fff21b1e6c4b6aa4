# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The slot: which mixer a config names, for which stage, and what the network gives it."""

import pytest
import torch
from torch import nn

from mmdmformer import TOKEN_MIXERS, DMFormer, MetaFormer
from mmdmformer.mixers import DMA
from mmdmformer.ops import fused_conv

ARCH = dict(embed_dims=(8, 16), depths=(1, 2), ffn_ratios=(2, 2))


class Roll(nn.Module):
    """A mixer that nobody here knows: without norms, options or a folded form."""

    def __init__(self, channels):
        super().__init__()
        self.shift = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x):
        return self.shift * x.roll(1, -1)


def mixers(model):
    return [[type(block.mixer) for block in stage.blocks] for stage in model.stages]


def test_one_mixer_for_all_stages_or_one_for_each():
    assert mixers(MetaFormer(ARCH)) == [[DMA], [DMA, DMA]]
    model = MetaFormer(ARCH, [dict(type='DMA', expand_ratio=2), dict(type=Roll)])
    assert mixers(model) == [[DMA], [Roll, Roll]]
    assert model.stages[0].blocks[0].mixer.expand.out_channels == 16


def test_a_registered_mixer_is_found_from_every_scope():
    from mmdet.registry import MODELS

    TOKEN_MIXERS.register_module(name='Roll', module=Roll)
    try:
        model = MODELS.build(dict(type='MetaFormer', arch=ARCH, mixer=dict(type='Roll')))
    finally:
        del TOKEN_MIXERS.module_dict['Roll']
    assert mixers(model) == [[Roll], [Roll, Roll]]


def test_mixers_that_have_norms_get_the_networks():
    norm_cfg = dict(type='GN', num_groups=4)
    model = MetaFormer(ARCH, norm_cfg=norm_cfg)
    assert isinstance(model.stages[0].blocks[0].mixer.branch_norm, nn.GroupNorm)
    own = MetaFormer(ARCH, dict(type='DMA', norm_cfg=dict(type='BN')), norm_cfg=norm_cfg)
    assert isinstance(own.stages[0].blocks[0].mixer.branch_norm, nn.BatchNorm2d)


def test_dmformer_is_the_metaformer_of_its_sizes():
    torch.manual_seed(0)
    network = MetaFormer(DMFormer.arch_zoo['nano'])
    torch.manual_seed(0)
    named = DMFormer('nano')
    assert network.state_dict().keys() == named.state_dict().keys()
    assert all(a.equal(b) for a, b in zip(network.parameters(), named.parameters(), strict=True))


@torch.no_grad()
def test_a_mixer_without_a_folded_form_stays():
    torch.manual_seed(0)
    model, x = MetaFormer(ARCH, dict(type=Roll), out_indices=(0, 1)), torch.rand(2, 3, 64, 70)
    model.train()(x)  # gives norms statistics
    expected = model.eval()(x)
    model.switch_to_deploy()
    for out, plain in zip(model(x), expected, strict=True):
        torch.testing.assert_close(out, plain, rtol=1e-4, atol=1e-5)
    loaded = MetaFormer(ARCH, dict(type=Roll), out_indices=(0, 1), deploy=True).eval()
    loaded.load_state_dict(model.state_dict())
    assert all(a.equal(b) for a, b in zip(loaded(x), model(x), strict=True))


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@torch.no_grad()
def test_a_watched_network_calls_every_layer_once(memory_format, deploy, monkeypatch):
    monkeypatch.setattr(fused_conv, '_SLICE_BYTES', 1)  # one image at a time, if nobody watches
    torch.manual_seed(0)
    model, called = DMFormer('nano', out_indices=(0, 1, 2, 3), deploy=deploy).eval(), []
    x = torch.rand(3, 3, 96, 64).contiguous(memory_format=memory_format)
    expected = model(x)
    layers = [m for m in model.modules() if not list(m.children())]
    for layer in layers:
        layer.register_forward_hook(lambda module, args, out: called.append(module))
    for out, fast in zip(model(x), expected, strict=True):
        torch.testing.assert_close(out, fast, rtol=1e-4, atol=1e-5)
    # DropPath and Identity are called for both residual branches of a block.
    layers = [m for m in layers if not isinstance(m, nn.Identity)]
    assert [called.count(layer) for layer in layers] == [1] * len(layers)


def test_the_former_arguments_still_work():
    with pytest.warns(DeprecationWarning, match=r'give mixer=dict\(dilations=\(1, 1, 1\), gate'):
        old = DMFormer('nano', gate=False, dilations=(1, 1, 1))
    new = DMFormer('nano', mixer=dict(gate=False, dilations=(1, 1, 1)))
    assert old.state_dict().keys() == new.state_dict().keys()
    assert old.stages[0].blocks[0].mixer.branches[2].dilation == (1, 1)


@pytest.mark.parametrize(
    ('mixer', 'error', 'message'),
    [
        (dict(type='DMa'), KeyError, r"mixer=dict\(type='DMa'\) .* did you mean DMA\?"),
        (dict(type='Something'), KeyError, 'choose one of .*DMA'),
        ([dict(type='DMA')], ValueError, 'gives 1 configs for 2 stages: give one for all'),
    ],
)
def test_wrong_mixers(mixer, error, message):
    with pytest.raises(error, match=message):
        MetaFormer(ARCH, mixer)


def test_arch_is_a_dict_here():
    with pytest.raises(ValueError, match="arch='small' is unknown: give a dict"):
        MetaFormer('small')
