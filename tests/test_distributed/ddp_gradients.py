# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""One of two processes that train the cases of test_ddp_gradients.py together.

Usage: python ddp_gradients.py RANK FOLDER. Process 0 writes the gradients to FOLDER/gradients.pth.
"""

import itertools
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmdmformer import DMFormer

BATCH, SIDE = 4, 64
OUT_INDICES = [s for n in (1, 2, 3, 4) for s in itertools.combinations(range(4), n)]
CASES = {
    **{f'out_indices={s}': dict(out_indices=s) for s in OUT_INDICES},
    'with_cp': dict(out_indices=(0, 1, 2, 3), with_cp=True),
    'frozen_stages': dict(out_indices=(1, 3), frozen_stages=1),
    'frozen_stages with_cp': dict(frozen_stages=2, with_cp=True),
}


def build(case: str) -> nn.Module:
    """The backbone of a case in float64, with batch norm in eval mode and not yet trained."""
    torch.manual_seed(0)
    model = DMFormer('nano', norm_eval=True, layer_scale_init_value=0.5, **CASES[case]).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return model.train()


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(BATCH, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)


def loss(features: tuple[Tensor, ...]) -> Tensor:
    """A mean over images, as a head's would be, that weighs each place differently."""
    total = 0
    for feature in features:
        weight = torch.linspace(-1, 1, feature[0].numel(), dtype=feature.dtype)
        total = total + (feature.sin().flatten(1) * weight).sum(1).mean()
    return total


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def main(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2
    )
    share = images().chunk(2)[rank]
    found = {}
    for case in CASES:
        model = build(case)
        wrapped = DistributedDataParallel(model, find_unused_parameters=False)
        # The second step fails if a parameter got no gradient in the first.
        for _ in range(2):
            model.zero_grad()
            loss(wrapped(share)).backward()
        found[case] = gradients(model)
    if rank == 0:
        torch.save(found, folder / 'gradients.pth')
    torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main(int(sys.argv[1]), Path(sys.argv[2]))
