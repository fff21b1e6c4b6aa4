# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The comparison: DMFormer's recipe of a set with another network of its size in its place.

Such a config has no file in configs/: its name says the network and the set, and it is the set's
config of DMFormer-nano with the network of :func:`network_of`.
"""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

from mmengine.config import Config

from networks import BASELINE, NETWORKS, Network

ROOT = Path(__file__).resolve().parents[2]
RATES = Path(__file__).with_name('rates.csv')
DMFORMER = 'dmformer-nano'
# A set's config, by its network.
TEMPLATES = {
    'cifar10': 'cifar10/{}_cifar10',
    'bccd': 'bccd/retinanet_{}_fpn_bccd',
    'camvid': 'camvid/{}_sem-fpn_camvid',
    'nuclei': 'nuclei/mask-rcnn_{}_fpn_nuclei',
}
MINI = ROOT / 'configs/mini'
MIXER = 'metaformer-nano-'
PEERS = {
    f'{name.lower()}-nano': name for name in ('Swin', 'ConvNeXt', 'PoolFormer', 'VAN', 'ResNet')
}
ABLATIONS = {
    f'{DMFORMER}-{name.replace(" ", "-")}': name
    for name in NETWORKS
    if name != BASELINE and name not in PEERS.values()
}
MIXERS = sorted(
    path.stem.split('_')[0]
    for path in MINI.glob(f'{MIXER}*.py')
    if not path.stem.startswith(f'{MIXER}dma_')  # which is DMFormer
)
FACTORS = 0.3, 1.0, 3.0  # of the recipe's learning rate, of which a network may have its own


def _runs(name: str, networks: list[str], seeds: int) -> list[tuple[str, int]]:
    return [(TEMPLATES[name].format(n), seed) for seed, n in product(range(seeds), networks)]


_FIRST_MIXERS = [f'{MIXER}pooling', f'{MIXER}self-attention']
# Configs and seeds. Classifiers come first, since detectors and segmentors start from them.
STAGES = {
    'a': [
        *_runs('cifar10', [DMFORMER, *PEERS, *_FIRST_MIXERS], 2),
        *_runs('bccd', [DMFORMER, 'swin-nano', 'convnext-nano', 'poolformer-nano'], 2),
        *_runs('nuclei', [DMFORMER], 2),
        *_runs('camvid', [DMFORMER], 2),
        *_runs('nuclei', ['swin-nano', 'resnet-nano'], 1),
        *_runs('camvid', ['swin-nano', 'resnet-nano'], 1),
    ],
    'b': _runs('cifar10', [*ABLATIONS, *(n for n in MIXERS if n not in _FIRST_MIXERS)], 1),
}


def network_of(name: str) -> Network:
    """Find a network of the comparison.

    Args:
        name (str): One of :data:`PEERS`, :data:`ABLATIONS` and :data:`MIXERS`.

    Returns:
        Network: Its backbone and channels.

    Examples:
        >>> network_of('dmformer-nano-no-dilation').backbone['mixer']
        {'dilations': (1, 1, 1)}
    """
    if name not in MIXERS:
        return NETWORKS[{**PEERS, **ABLATIONS}[name]]
    backbone = Config.fromfile(MINI / f'{name}_mini-imagenet.py').model.backbone.to_dict()
    return Network({**backbone, 'out_indices': (0, 1, 2, 3)}, backbone['arch']['embed_dims'])


def split_name(config: str) -> tuple[str, str]:
    """Take a config's name apart.

    Args:
        config (str): Below ``configs``, without suffix.

    Returns:
        tuple[str, str]: The set and the network.

    Examples:
        >>> split_name('bccd/retinanet_swin-nano_fpn_bccd')
        ('bccd', 'swin-nano')
        >>> split_name('camvid/dmformer-nano-scratch_sem-fpn_camvid')
        ('camvid', 'dmformer-nano-scratch')
    """
    name, stem = config.split('/')
    return name, next(part for part in stem.split('_') if '-nano' in part or 'former-' in part)


def make_config(config: str, factor: float, classifiers: Path) -> Config:
    """Read a config, or make one of the comparison.

    Args:
        config (str): Below ``configs``, without suffix.
        factor (float): Of the recipe's learning rate, for one of the comparison.
        classifiers (Path): Where the runs of CIFAR-10 are, whose weights the others start from.

    Returns:
        Config: The config.
    """
    path = ROOT / f'configs/{config}.py'
    if path.is_file():
        return Config.fromfile(path)
    name, network = split_name(config)
    cfg = Config.fromfile(ROOT / f'configs/{TEMPLATES[name].format(DMFORMER)}.py')
    backbone, channels = network_of(network).backbone, network_of(network).channels
    if name == 'cifar10':
        head = dict(head=dict(in_channels=channels[-1]))
    else:
        stem = Path(TEMPLATES['cifar10'].format(network)).name
        checkpoint = str(classifiers / f'{stem}_seed0/{stem}.safetensors')
        backbone = {**backbone, 'init_cfg': dict(type='CheckedPretrained', checkpoint=checkpoint)}
        head = dict(neck=dict(in_channels=list(channels)))
    cfg.model.pop('backbone')
    cfg.merge_from_dict(dict(model=dict(backbone=backbone, **head)))
    if backbone['type'].startswith('mmpretrain.'):
        cfg.custom_imports.imports.append('mmpretrain.models')
    cfg.optim_wrapper.optimizer.lr *= factor
    return cfg


def read_rates(path: Path = RATES) -> dict[str, dict[float, float]]:
    """Read what each learning rate reached on the validation split.

    Args:
        path (Path): The file; there are none if it is not there.

    Returns:
        dict: For each config the values by the factor of the recipe's rate.
    """
    rates: dict[str, dict[float, float]] = {}
    if path.exists():
        with path.open(newline='', encoding='utf-8') as file:
            for row in csv.DictReader(file):
                rates.setdefault(row['config'], {})[float(row['factor'])] = float(row['value'])
    return rates


def add_rate(config: str, factor: float, value: float, path: Path = RATES) -> None:
    """Write down what a learning rate reached on the validation split."""
    is_new = not path.exists()
    with path.open('a', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerows(
            [*([('config', 'factor', 'value')] if is_new else []), (config, factor, value)]
        )


def chosen_factor(config: str, path: Path = RATES) -> float:
    """The factor of the recipe's learning rate that did best on validation, 1 if none was tried."""
    tried = read_rates(path).get(config, {1.0: 0.0})
    return max(tried, key=tried.get)
