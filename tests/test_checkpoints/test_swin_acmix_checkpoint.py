# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The authors' checkpoint names, with a network that is written by those names alone."""

import pytest
import torch
import torch.nn.functional as F

from mmdmformer import SwinACmix
from mmdmformer.checkpoints import CheckpointError, convert_checkpoint
from mmdmformer.checkpoints.swin_acmix import from_authors, rename_weights

CHANNELS, DEPTHS, HEADS, WINDOW = 16, (2, 2, 2, 1), (1, 2, 4, 8), 7


def authors_shapes():
    """Names and shapes of a checkpoint of the authors' code, of a network of nano size."""
    shapes = {'patch_embed.proj.weight': (16, 3, 4, 4), 'patch_embed.proj.bias': (16,)}
    shapes |= dict.fromkeys(['patch_embed.norm.weight', 'patch_embed.norm.bias'], (16,))
    for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        c = CHANNELS * 2**i
        for j in range(depth):
            block = {
                'norm1.weight': (c,),
                'norm1.bias': (c,),
                'attn.relative_position_bias_table': (169, heads),
                'attn.relative_position_index': (49, 49),
                'attn.qkv.weight': (3 * c, c),
                'attn.qkv.bias': (3 * c,),
                'attn.proj.weight': (c, c),
                'attn.proj.bias': (c,),
                'attn.fc.weight': (9, 3 * heads, 1, 1),
                'attn.fc.bias': (9,),
                'attn.dep_conv.weight': (c, 9, 3, 3),
                'attn.rate1': (1,),
                'attn.rate2': (1,),
                'norm2.weight': (c,),
                'norm2.bias': (c,),
                'mlp.fc1.weight': (4 * c, c),
                'mlp.fc1.bias': (4 * c,),
                'mlp.fc2.weight': (c, 4 * c),
                'mlp.fc2.bias': (c,),
            }
            shapes |= {f'layers.{i}.blocks.{j}.{name}': shape for name, shape in block.items()}
        shapes[f'layers.{i}.blocks.1.attn_mask'] = (4, 49, 49)
        if i < 3:
            shapes[f'layers.{i}.downsample.reduction.weight'] = (2 * c, 4 * c)
            shapes[f'layers.{i}.downsample.norm.weight'] = (4 * c,)
            shapes[f'layers.{i}.downsample.norm.bias'] = (4 * c,)
    shapes |= {'norm.weight': (128,), 'norm.bias': (128,)}
    return shapes | {'head.weight': (10, 128), 'head.bias': (10,)}


def authors_weights():
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.double) / max(shape[-1], 4) ** 0.5
        for name, shape in authors_shapes().items()
    }


def linear(w, name, x):
    return F.linear(x, w[f'{name}.weight'], w.get(f'{name}.bias'))


def norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[f'{name}.weight'], w[f'{name}.bias'])


def attention(w, name, qkv, heads, shift):
    """Of every position to those of its window, one position after the other."""
    height, width, c = *qkv.shape[:2], qkv.shape[2] // 3
    out = torch.empty(height, width, c, dtype=torch.double)

    def side(i, length):
        return 0 if i < length - WINDOW else 1 if i < length - shift else 2

    def region(y, x):
        return (side(y, height), side(x, width)) if shift else 0

    for y in range(height):
        for x in range(width):
            top, left = y // WINDOW * WINDOW, x // WINDOW * WINDOW
            places = [(a, b) for a in range(top, top + 7) for b in range(left, left + 7)]
            keys = torch.stack([qkv[a, b] for a, b in places]).view(49, 3, heads, -1)
            logits = torch.einsum('hd,jhd->hj', qkv[y, x].view(3, heads, -1)[0], keys[:, 1])
            logits = logits / keys.shape[-1] ** 0.5
            index = [(y - a + 6) * 13 + x - b + 6 for a, b in places]
            logits = logits + w[f'{name}.relative_position_bias_table'][index].T
            apart = torch.tensor([region(y, x) != region(a, b) for a, b in places])
            logits = logits - 100 * apart
            out[y, x] = torch.einsum('hj,jhd->hd', logits.softmax(1), keys[:, 2]).flatten()
    return linear(w, f'{name}.proj', out)


def convolution(w, name, qkv, heads):
    height, width, channels = qkv.shape
    maps = qkv.permute(2, 0, 1).view(3 * heads, -1, height, width)
    fc = w[f'{name}.fc.weight'][:, :, 0, 0]
    mixed = torch.einsum('mt,tcyx->cmyx', fc, maps) + w[f'{name}.fc.bias'][:, None, None]
    groups = channels // 3 // heads
    out = F.conv2d(
        mixed.flatten(0, 1)[None], w[f'{name}.dep_conv.weight'], padding=1, groups=groups
    )
    return out[0].permute(1, 2, 0)


def authors_network(w, image):
    """The features before pooling, (C, H, W), of an image (3, H, W) of a fitting size."""
    x = F.conv2d(image[None], w['patch_embed.proj.weight'], w['patch_embed.proj.bias'], stride=4)
    x = norm(w, 'patch_embed.norm', x[0].permute(1, 2, 0))
    for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        for j in range(depth):
            name = f'layers.{i}.blocks.{j}'
            shift = 3 if j % 2 and min(x.shape[:2]) > WINDOW else 0
            qkv = linear(
                w, f'{name}.attn.qkv', norm(w, f'{name}.norm1', x).roll((-shift,) * 2, (0, 1))
            )
            mixed = w[f'{name}.attn.rate1'] * attention(w, f'{name}.attn', qkv, heads, shift)
            mixed = mixed + w[f'{name}.attn.rate2'] * convolution(w, f'{name}.attn', qkv, heads)
            x = x + mixed.roll((shift,) * 2, (0, 1))
            hidden = F.gelu(linear(w, f'{name}.mlp.fc1', norm(w, f'{name}.norm2', x)))
            x = x + linear(w, f'{name}.mlp.fc2', hidden)
        if i < 3:
            corners = [x[a::2, b::2] for b in (0, 1) for a in (0, 1)]
            x = norm(w, f'layers.{i}.downsample.norm', torch.cat(corners, -1))
            x = linear(w, f'layers.{i}.downsample.reduction', x)
    return norm(w, 'norm', x).permute(2, 0, 1)


def test_converted_weights_give_the_authors_output():
    weights = authors_weights()
    converted = rename_weights(weights)
    model = SwinACmix('nano').double().eval()
    backbone = {
        name.removeprefix('backbone.'): value
        for name, value in converted.items()
        if name.startswith('backbone.')
    }
    model.load_state_dict(backbone)
    image = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        out, expected = model(image[None])[0][0], authors_network(weights, image)
    torch.testing.assert_close(out, expected)
    assert {'head.fc.weight', 'head.fc.bias'} == converted.keys() - {
        f'backbone.{name}' for name in backbone
    }


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.', 'module.model.'])
def test_a_file_becomes_a_pretrained_backbone(prefix, tmp_path):
    weights = authors_weights()
    wrapped = {f'{prefix}{name}': value for name, value in weights.items()}
    torch.save(dict(model=wrapped, epoch=299), tmp_path / 'theirs.pth')
    written = convert_checkpoint(tmp_path / 'theirs.pth', tmp_path / 'ours.pth', from_authors)
    checkpoint = str(tmp_path / 'ours.pth')
    model = SwinACmix('nano', init_cfg=dict(type='Pretrained', checkpoint=checkpoint))
    model.init_weights()
    assert len(written['state_dict']) == len(model.state_dict()) + 2
    rate = model.stages[2].blocks[1].attn.acmix.rates.beta
    torch.testing.assert_close(
        rate.data.double(), weights['layers.2.blocks.1.attn.rate2'].float().double()
    )


def test_other_checkpoints_are_refused(tmp_path):
    torch.save(
        dict(model={'layers.0.blocks.0.attn.qkv.weight': torch.zeros(1)}), tmp_path / 'x.pth'
    )
    with pytest.raises(ValueError, match='no tensor layers.*rate1: give a Swin-ACmix'):
        convert_checkpoint(tmp_path / 'x.pth', tmp_path / 'y.pth', from_authors)
    assert not (tmp_path / 'y.pth').exists()


def test_checkpoints_with_code_are_not_run(tmp_path):
    torch.save(dict(model={}, config=pytest.raises), tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='Refused to load .* which would run code'):
        convert_checkpoint(tmp_path / 'x.pth', tmp_path / 'y.pth', from_authors)
