# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import torch

from mmdmformer.engine.model import save_untrained

UPERNET = Path(__file__).parents[2] / 'configs/mini/dmformer-nano_upernet_mini-ade20k.py'


def test_untrained_weights_are_always_the_same_and_obey_options(tmp_path):
    options = {'model.decode_head.norm_cfg': None, 'model.auxiliary_head.norm_cfg': None}
    saved = []
    for i, changed in enumerate((None, None, options)):
        save_untrained(UPERNET, tmp_path / f'{i}.pth', changed)
        saved.append(torch.load(tmp_path / f'{i}.pth')['state_dict'])
    first, second, without_norms = saved
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any('decode_head' in name and '.bn.' in name for name in first)
    assert not any('_head' in name and '.bn.' in name for name in without_norms)
