# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Token mixers follow the laws of what they are: convolution, attention, attention in windows."""

from functools import partial

import pytest
import torch
from mixer_cases import build
from mixer_cases import maps as some_maps

SOFTMAX_FREE = ('none', 'scaling', 'scaling_relu', 'ln', 'ln_relu')


maps = partial(some_maps, dtype=torch.double)


# How far a position sees: what lies further inside knows nothing of the map's border.
REACH = {
    'Identity': (dict(type='Identity'), 0),
    'Pooling': (dict(type='Pooling', kernel_size=5), 2),
    'DepthwiseConv': (dict(type='DepthwiseConv', kernel_size=5, dilation=2), 4),
    'LKA': (dict(type='LKA'), 2 + 9),
    'DMA': (dict(type='DMA'), 9),
    'DynamicConv': (dict(type='DynamicConv'), 1),
    'DynamicDepthwiseConv': (dict(type='DynamicDepthwiseConv'), 3),
    'DynamicDepthwiseConv, homogeneous': (dict(type='DynamicDepthwiseConv', homogeneous=True), 3),
    'ACmix': (dict(type='ACmix'), 3),
}


@pytest.mark.parametrize(('cfg', 'reach'), REACH.values(), ids=REACH)
def test_translation_in_the_interior(cfg, reach):
    """Rolling the map moves the output, and changes no average over the map."""
    mixer, x = build(cfg).double().eval(), maps(29, 31)
    margin = reach + 2
    inside = (..., slice(margin, 29 - margin), slice(margin, 31 - margin))
    moved = mixer(x.roll((1, -2), (2, 3)))
    expected = mixer(x).roll((1, -2), (2, 3))
    torch.testing.assert_close(moved[inside], expected[inside])
    if reach > 0:
        assert not torch.allclose(moved, expected)


@pytest.mark.parametrize(('cfg', 'reach'), REACH.values(), ids=REACH)
def test_reach(cfg, reach):
    """No farther position counts, but through an average over the map, and the farthest does."""
    mixer, x = build(cfg).double().eval(), maps(29, 31, batch=1)
    changed = x.clone()
    changed[:, ::2, 14, 15] += 1
    changed[:, ::2, 0, 0] -= 1  # keeps the average
    difference = (mixer(changed) - mixer(x)).abs().amax((0, 1))
    seen = difference[reach + 1 :, reach + 1 :] > 1e-12  # without what sees the corner
    rows, columns = (seen.any(dim).nonzero().flatten() + reach + 1 for dim in (1, 0))
    if reach < 9:
        assert (rows[0], rows[-1]) == (14 - reach, 14 + reach)
        assert (columns[0], columns[-1]) == (15 - reach, 15 + reach)
    else:
        assert (rows[-1], columns[-1]) == (14 + reach, 15 + reach)


@pytest.mark.parametrize(
    'cfg',
    [
        dict(type='SelfAttention'),
        dict(type='DynamicAttention', position='none'),
        *(dict(type='DynamicAttention', position='none', activation=a) for a in SOFTMAX_FREE),
        dict(type='DynamicAttention', position='none', activation='none', kernel='depthwise'),
    ],
    ids=lambda cfg: ' '.join(str(value) for value in cfg.values()),
)
def test_attention_without_positions_knows_no_order(cfg):
    mixer, x = build(cfg).double().eval(), maps(5, 7)
    order = torch.randperm(35)
    shuffled = x.flatten(2)[..., order].view_as(x)
    expected = mixer(x).flatten(2)[..., order].view_as(x)
    torch.testing.assert_close(mixer(shuffled), expected)


def test_positions_make_an_order():
    for cfg in (dict(type='DynamicAttention'), dict(type='LocalAttention')):
        mixer, x = build(cfg).double().eval(), maps(7, 7)
        assert not torch.allclose(mixer(x.flip(3)), mixer(x).flip(3))


IN_WINDOWS = [
    dict(type='LocalAttention', window=4),
    dict(type='DynamicAttention', window=4, activation='ln'),
    dict(type='DynamicAttention', window=4, activation='none', kernel='depthwise'),
]


@pytest.mark.parametrize('cfg', IN_WINDOWS)
def test_translation_by_a_window(cfg):
    mixer, x = build(cfg).double().eval(), maps(8, 12)
    torch.testing.assert_close(mixer(x.roll((4, -4), (2, 3))), mixer(x).roll((4, -4), (2, 3)))
    assert not torch.allclose(mixer(x.roll(1, 3)), mixer(x).roll(1, 3))


@pytest.mark.parametrize('cfg', IN_WINDOWS)
def test_windows_do_not_see_each_other(cfg):
    mixer, x = build(cfg).double().eval(), maps(6, 10)
    other = x.clone()
    other[..., 4:8] += 1
    same = (mixer(other) == mixer(x)).all(dim=0).all(dim=0)
    assert same[:, :4].all() and same[:, 8:].all() and not same[:, 4:8].any()


def test_windows_shift_with_their_border():
    """What lies behind the first border is cut as if the map began there."""
    x = maps(9, 11)
    shifted, plain = (
        build(dict(type='LocalAttention', window=4, shift=s)).double().eval() for s in (3, 0)
    )
    torch.testing.assert_close(shifted(x)[..., 3:, 3:], plain(x[..., 3:, 3:]))
    torch.testing.assert_close(shifted(x)[..., :3, :3], plain(x[..., :3, :3]))
