# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""The families of configs: one file here for each folder in configs/, and how configs inherit."""

import ast
from importlib import import_module
from pathlib import Path

from .family import Family, Recipe

CONFIGS = Path(__file__).parents[3] / 'configs'
FAMILIES: dict[str, Family] = {
    path.stem: import_module(f'.{path.stem}', __name__).FAMILY
    for path in sorted(Path(__file__).parent.glob('*.py'))
    if path.stem not in ('__init__', 'courses', 'family')
}
PRODUCTION = sorted(path for name in FAMILIES for path in (CONFIGS / name).glob('*.py'))
# Public data sets with a folder of their own, whose configs inherit a recipe of DMFormer.
SETS = ('bccd', 'camvid', 'cifar10', 'nuclei')
MINI = sorted((CONFIGS / 'mini').glob('*.py'))
FILES = PRODUCTION + MINI
MAIN = [path for path in PRODUCTION if path.stem in FAMILIES[path.parent.name].recipes]
VARIANTS = [path for path in PRODUCTION if path not in MAIN]
# By the type of a backbone, or the name of a mini config; see Family.
NANO = {key: size for family in FAMILIES.values() for key, size in family.nano.items()}
NORMS = {key: names for family in FAMILIES.values() for key, names in family.norms.items()}


def bases_of(path: Path) -> list[Path]:
    """The files that a config inherits."""
    (statement,) = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and node.targets[0].id == '_base_'
    ]
    bases = ast.literal_eval(statement.value)
    return [
        (path.parent / base).resolve() for base in ([bases] if isinstance(bases, str) else bases)
    ]


def is_mini_variant(path: Path) -> bool:
    """Whether a mini config inherits another one."""
    return bases_of(path)[0].parent == path.parent


def is_production(path: Path) -> bool:
    """Whether a config is on the real data."""
    return path.parent.name != 'mini'


def main_config_of(path: Path) -> Path:
    """The main config that a variant or a mini config inherits, or the main config itself."""
    while path not in MAIN:
        (path,) = bases_of(path)
    return path


def family_of(path: Path) -> Family:
    """The family of a config."""
    return FAMILIES[main_config_of(path).parent.name]


def recipe_of(path: Path) -> Recipe:
    """The recipe of a config."""
    if not is_production(path) and is_mini_variant(path):
        (recipe,) = FAMILIES['metaformer'].recipes.values()
        return recipe
    return family_of(path).recipes[main_config_of(path).stem]


def network_of(path: Path) -> str:
    """The name of a config's network, which is what its ImageNet config begins with."""
    networks = {stem.split('_')[0] for stem in family_of(path).parameters if 'in1k' in stem}
    (network,) = networks & set(path.stem.split('_'))
    return network


def name_of(path: Path) -> str:
    """The test id of a config."""
    return path.stem
