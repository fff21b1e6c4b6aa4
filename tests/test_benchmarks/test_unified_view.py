# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What a forward pass tells of the kernels of a network."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mmdmformer import TOKEN_MIXERS, DMFormer
from mmdmformer.engine.runtime import UsageError
from mmdmformer.mixers import DMA, DynamicTokenAttention
from token_mixers import Description, describes
from unified_view import (
    build_backbone,
    make_markdown,
    make_table,
    make_text,
    view_family,
    view_network,
)

REPOSITORY = Path(__file__).parents[2]
TOOL = REPOSITORY / 'benchmarks/unified_view.py'


def image(channels=3, side=64):
    return torch.rand(1, channels, side, side)


def rows_by_mixer(network, x):
    return {row.mixer: row for row in view_network(network, x)}


class TestDMFormer:
    def test_the_gate_is_dynamic_and_nothing_else(self):
        (row,) = view_network(DMA(8), image(8, 6))
        assert row.products == ['mul of (1, 8, 1, 1) and (1, 8, 6, 6)']
        assert row.description == Description(
            'one kernel from the pooled input',
            'the one (the gate)',
            'depthwise 1x1',
            '1',
            static='depthwise taps: 3x3 dilation 1, 5x5 dilation 2, 7x7 dilation 3',
        )

    def test_mixers_of_the_network(self):
        rows = view_network(DMFormer('nano'), image())
        assert [(row.mixer, len(row.paths)) for row in rows if row.is_dynamic] == [('DMA', 5)]
        assert rows[3].paths == [f'stages.{i}.blocks.{j}.mixer' for i, j in
                                 ((0, 0), (1, 0), (2, 0), (2, 1), (3, 0))]  # fmt: skip
        static = {row.description.kernel for row in rows if not row.is_dynamic}
        assert static == {'standard 7x7', 'standard 3x3', 'standard 2x2', 'depthwise 3x3'}

    def test_without_the_gate_all_is_static(self):
        network = DMFormer('nano', gate=False)
        assert not any(row.is_dynamic for row in view_network(network, image()))
        assert network.training

    def test_folded_form_is_as_dynamic(self):
        """Its mixer has no description, and its gate is found nevertheless."""
        rows = view_network(DMFormer('nano', deploy=True), image())
        gates = {row.mixer: row for row in rows if row.is_dynamic}
        assert list(gates) == ['FoldedDMA'] and len(gates['FoldedDMA'].paths) == 5


class Gated(nn.Module):
    """A mixer that nobody has described."""

    def __init__(self, dynamic):
        super().__init__()
        self.taps = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.dynamic = dynamic

    def forward(self, x):
        y = self.taps(x)
        mask = x.new_zeros(y.shape)
        mask[..., ::2] = 1  # made with the input's type alone
        return y * mask * (x.sigmoid() if self.dynamic else self.scale.sigmoid())


class TestUndescribedMixers:
    def test_a_product_of_inputs_gets_a_row(self):
        rows = rows_by_mixer(Gated(dynamic=True), image(4))
        assert rows['Gated'].is_dynamic and not rows['Conv2d'].is_dynamic
        assert rows['Gated'].description == Description(
            'made from the input', 'one for each position', 'depthwise 1x1', '1'
        )

    def test_masks_and_parameters_are_no_inputs(self):
        assert [row.mixer for row in view_network(Gated(dynamic=False), image(4))] == ['Conv2d']

    def test_what_is_written_into_a_new_tensor_stays_an_input(self):
        class Filled(nn.Module):
            def forward(self, x):
                copy = torch.zeros_like(x)
                copy[:, :2] = x[:, :2]
                return copy[:, 1:] * x[:, 1:]

        assert rows_by_mixer(Filled(), image(4))['Filled'].is_dynamic

    def test_attention_is_named_by_its_operation(self):
        class Plain(nn.Module):
            def forward(self, x):
                tokens = x.flatten(2)
                return (tokens.mT @ tokens).softmax(-1)

        (row,) = view_network(Plain(), image(4, 6))
        assert row.products == ['bmm of (1, 36, 4) and (1, 4, 36)']
        assert row.description.kernel == 'by bmm'

    def test_convolution_with_kernels_from_the_input(self):
        class Correlation(nn.Module):
            def forward(self, x):
                return nn.functional.conv2d(x, x[:, :, :3, :3])

        (row,) = view_network(Correlation(), image(4, 6))
        assert row.description.kernel == 'by convolution'

    def test_description_holds_for_derived_classes_and_is_checked_against_what_is_seen(self):
        class Base(Gated):
            pass

        class Derived(Base):
            pass

        @describes(Base)
        def describe(mixer, inputs):
            return Description('a gate', 'the one', f'of {inputs["x"].shape[1]} channels')

        for dynamic in (False, True):
            (row,) = view_network(Derived(dynamic), image(4))
            assert row.description.kernel == 'of 4 channels'
            assert row.is_dynamic is dynamic


class TestToolboxNetworks:
    def test_swin(self):
        pytest.importorskip('mmpretrain')
        arch = dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4])
        options = dict(arch=arch, window_size=4, out_indices=(1,))
        network = build_backbone('mmpretrain.SwinTransformer', options)
        whole, shifted = (r for r in view_network(network, image(3, 32)) if r.mixer == 'WindowMSA')
        assert whole.is_dynamic and shifted.is_dynamic
        assert whole.description.selection == 'all of 4x4 (hard)'
        assert shifted.description.selection == 'one region of 4x4 (hard)'
        assert shifted.paths == ['stages.0.blocks.1.attn.w_msa']
        assert whole.description.channels == '4 -> 16 -> 4'

    def test_vision_transformer(self):
        pytest.importorskip('mmpretrain')
        arch = dict(embed_dims=12, num_layers=2, num_heads=3, feedforward_channels=12)
        options = dict(arch=arch, img_size=32)
        network = build_backbone('mmpretrain.VisionTransformer', options)
        row = rows_by_mixer(network, image(side=32))['MultiheadAttention']
        assert (len(row.paths), row.is_dynamic) == (2, True)
        assert row.description.channels == '4 -> 5 -> 4'  # four patches and the class token

    def test_squeeze_and_excitation_and_plain_convolutions(self):
        pytest.importorskip('mmpretrain')
        options = dict(depth=50, stem_channels=16, base_channels=16, out_indices=(0,))
        rows = rows_by_mixer(build_backbone('mmpretrain.SEResNet', options), image())
        assert rows['SELayer'].description.selection == 'one for each image or group of positions'
        assert not rows['Conv2d'].is_dynamic
        options = dict(depth=18, stem_channels=8, base_channels=8)
        network = build_backbone('mmpretrain.ResNet', options)
        assert not any(row.is_dynamic for row in view_network(network, image()))

    def test_attention_of_torch(self):
        class Block(nn.Module):
            def __init__(self, batch_first):
                super().__init__()
                self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

            def forward(self, x):
                return self.attention(x, x, x, need_weights=False)[0]

        for batch_first, tokens in ((True, 7), (False, 3)):
            (row,) = view_network(Block(batch_first), torch.rand(3, 7, 8))
            assert row.is_dynamic and row.description.channels == f'4 -> {tokens} -> 4'


class TestDynamicBackbones:
    def test_windows_of_swin_are_whole_or_shifted(self):
        pytest.importorskip('mmpretrain')
        options = dict(arch='nano', activation='scaling_relu', window_size=4, pad_small_map=True)
        rows = view_network(build_backbone('DynamicSwin', options), image())
        mixers = [row for row in rows if row.mixer == 'DynamicTokenAttention']
        found = [(len(r.paths), r.is_dynamic, r.description.selection) for r in mixers]
        assert found == [(4, True, 'all of 4x4 (hard)'), (4, True, 'one region of 4x4 (hard)')]
        assert mixers[0].description.activation == 'scaling_relu'

    def test_grid_of_the_plain_transformer_is_that_of_the_image(self):
        pytest.importorskip('mmpretrain')
        options = dict(arch='nano', position='relative', activation='none', kernel='depthwise')
        row = rows_by_mixer(build_backbone('DynamicViT', options), image())['DynamicTokenAttention']
        assert (len(row.paths), row.is_dynamic) == (4, True)
        assert row.description.selection == 'mean of all of 4x4 + 1 (hard)'
        assert row.description.static == 'depthwise 7x7 on keys'


class TestACmix:
    """One projection serves a dynamic path and a static one."""

    @pytest.mark.parametrize(
        'rates, is_dynamic, static',
        [
            ('learned', True, 'mixing and shifting of maps, 3x3'),
            ('attention', True, ''),
            ('convolution', False, ''),
        ],
    )
    def test_paths(self, rates, is_dynamic, static):
        pytest.importorskip('mmdmformer.mixers.acmix')
        pytest.importorskip('mmpretrain')
        network = build_backbone('ResNetACmix', dict(arch='nano', rates=rates))
        row = rows_by_mixer(network, image())['ACmixOperator']
        assert (row.is_dynamic, row.description.static) == (is_dynamic, static)
        if is_dynamic:
            assert row.description.selection == 'all of 7x7 (hard)'
        else:
            assert row.description.kernel == 'mixing and shifting of maps, 3x3'

    def test_patch_wise_attention_is_depthwise(self):
        pytest.importorskip('mmdmformer.mixers.acmix')
        row = rows_by_mixer(build_backbone('SANACmix', dict(arch='nano')), image())['ACmixOperator']
        assert row.is_dynamic and row.description.kernel.startswith('depthwise ')


def test_page_shows_the_family():
    names, rows = zip(*view_family(), strict=True)
    page = (REPOSITORY / 'docs/dynamic_convolution.md').read_text()
    assert make_markdown(make_table(rows, names)) in page


def test_members_of_the_family_differ_in_kernels():
    views = dict(view_family())
    found = {
        name: (row.is_dynamic, row.description.kernel, row.description.channels)
        for name, row in views.items()
    }
    assert found == {
        'ViT': (True, 'standard 1x1', '64 -> 196 -> 64'),
        'ViT, scaling': (True, 'standard 1x1', '64 -> 64 (merged)'),
        'ViT, depthwise': (True, 'depthwise 1x1', '1'),
        'Swin': (True, 'standard 1x1', '32 -> 49 -> 32'),
        'Swin, shifted': (True, 'standard 1x1', '32 -> 49 -> 32'),
        'Swin, depthwise': (True, 'depthwise 1x1', '1'),
        'Linformer': (True, 'standard 1x1', '64 -> 49 -> 64'),
        'dynamic convolution': (True, 'depthwise 3x3', '1'),
        'D-DW-Conv': (True, 'depthwise 7x7', '1'),
        'D-DW-Conv, homogeneous': (True, 'depthwise 7x7', '1'),
        'DMFormer': (True, 'depthwise 1x1', '1'),
        'DMFormer, no gate': (
            False, 'depthwise 3x3 dilation 1, 5x5 dilation 2, 7x7 dilation 3', ''
        ),
        'depthwise convolution': (False, 'depthwise 7x7', ''),
    }  # fmt: skip
    assert views['Swin, shifted'].description.selection == 'one region of 7x7 (hard)'
    assert (
        views['D-DW-Conv'].description.bank
        == 'none: a kernel made from the feature at each position'
    )
    assert views['D-DW-Conv'].description.selection == 'none'


@pytest.mark.parametrize(
    'settings, static',
    [
        (dict(), 'relative positions, 7x7'),
        (dict(activation='scaling'), 'depthwise 7x7 on values'),
        (dict(activation='none', kernel='depthwise'), 'depthwise 7x7 on keys'),
        (dict(activation='ln_relu', position='none'), ''),
    ],
)
def test_static_part_of_dynamic_attention(settings, static):
    mixer = DynamicTokenAttention(8, 2, (4, 4), num_extra_tokens=1, **settings)
    (row,) = view_network(mixer, torch.rand(1, 17, 8))
    assert row.is_dynamic and row.description.static == static
    assert '4x4 + 1 (hard)' in row.description.selection
    if settings.get('position') != 'none':
        (row,) = view_network(_OtherWindow(mixer), torch.rand(1, 7, 8))
        assert '2x3 + 1' in row.description.selection


class _OtherWindow(nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.mixer = mixer

    def forward(self, x):
        return self.mixer(x, window_size=(2, 3))


@pytest.mark.parametrize('name', sorted(TOKEN_MIXERS.module_dict))
def test_registered_mixers_are_described(name):
    """No product of what comes from the image is left to be guessed."""
    if name == 'LKA':
        pytest.skip("VAN's product of maps is what it says")
    for row in view_network(TOKEN_MIXERS.build(dict(type=name), channels=32), image(32, 6)):
        assert row.description.selection != 'not described'
        assert not row.description.selection.startswith('one for each')


def test_tables():
    class Name(nn.Conv2d):
        pass

    table = make_table(view_network(Name(3, 3, (3, 5)), image()), ['mine'])
    assert table[1] == ['mine', '1', 'no', 'one learned kernel', 'the one', 'standard 3x5',
                        '-', '-', '-']  # fmt: skip
    assert make_text(table).splitlines()[1].split()[:3] == ['mine', '1', 'no']
    header, rule, line = make_markdown(table).splitlines()
    assert header.count('|') == rule.count('|') == line.count('|') == 10


def test_tool_prints_a_network_and_where_its_mixers_are(python, tmp_path):
    args = ['DMFormer', '--options', 'arch=nano', '--size', '64', '--where']
    result = python(TOOL, *args, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith('DMA '))
    assert line.split()[1:3] == ['5', 'yes']
    assert '    mul of (1, 16, 1, 1) and (1, 16, 16, 16)' in result.stdout.splitlines()


@pytest.mark.parametrize(
    'args, sentence',
    [
        (['Swim'], "there is no backbone 'Swim': give a config file or a name in the registry"),
        (['DMFormer', '--options', 'arch=huge'], "DMFormer cannot be built with {'arch': 'huge'}"),
        (['nowhere.py'], 'nowhere.py does not exist: check the path'),
    ],
)
def test_tool_names_a_mistake(args, sentence, python, tmp_path):
    result = python(TOOL, *args, cwd=tmp_path)
    assert result.returncode == 2
    assert sentence in result.stderr.splitlines()[-1]
    assert 'Traceback' not in result.stderr


def test_config_file_names_its_backbone():
    path = REPOSITORY / 'configs/mini/dmformer-nano_mini-imagenet.py'
    network = build_backbone(str(path), dict(gate=False))
    assert not any(row.is_dynamic for row in view_network(network, image()))
    with pytest.raises(UsageError, match='there is no backbone'):
        build_backbone('ResNetOfMine')
