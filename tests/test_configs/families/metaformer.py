# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer-S with other token mixers, all at its size."""

from dataclasses import replace

from . import dmformer
from .family import Family

MIXERS = {
    'dma': 26_660_392,  # published, as DMFormer-S
    # computed
    'identity': 26_653_416,
    'pooling': 26_653_416,
    'depthwise-conv': 26_704_360,
    'lka': 26_763_432,
    'dynamic-conv': 26_871_000,
    'dynamic-depthwise-conv': 27_359_912,
    'acmix': 26_801_768,
    'local-attention': 27_183_776,
    'linformer': 27_248_720,
    'dynamic-attention': 27_286_816,
    'self-attention': 27_152_680,
}
NANO = {
    'dma': 859_824,
    'identity': 842_304,
    'pooling': 842_304,
    'depthwise-conv': 849_968,
    'lka': 841_200,
    'dynamic-conv': 842_848,
    'dynamic-depthwise-conv': 859_032,
    'acmix': 846_037,
    'local-attention': 854_993,
    'linformer': 891_282,
    'dynamic-attention': 877_953,
    'self-attention': 848_064,
}
ARCH = dict(embed_dims=(64, 128, 320, 512), depths=(2, 2, 6, 2), ffn_ratios=(8, 8, 4, 4))
DMFORMER = dmformer.FAMILY.recipes['dmformer-s_8xb128_in1k']

FAMILY = Family(
    experiments={'metaformer-s-{}_8xb128_in1k': tuple(MIXERS)},
    parameters={f'metaformer-s-{name}_8xb128_in1k': size for name, size in MIXERS.items()},
    recipes={
        'metaformer-s-dma_8xb128_in1k': replace(
            DMFORMER,
            arch=ARCH,
            undecayed=rf'{DMFORMER.undecayed}|.*\.(relative_position_bias_table|rates\.(alpha|beta))',
        )
    },
    variants=({'type', 'arch'}, {'type'}, {'type', 'arch', 'activation'}),
    nano={f'metaformer-nano-{name}_mini-imagenet': size for name, size in NANO.items()},
    norms={'MetaFormer': {'backbone.stages.3.norm.weight', 'backbone.stem.1.bias'}},
    with_mini_config=set(),
)
