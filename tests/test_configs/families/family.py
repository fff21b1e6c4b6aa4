# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What the tests know about a family of configs, written down apart from the configs."""

from dataclasses import dataclass, field

from .courses import Course


@dataclass(frozen=True)
class Recipe:
    """What a main config must hold. Its variants and its mini config inherit it.

    Attributes:
        optimizer (dict): The optimizer with its settings, as the config names them.
        batch (int): Images in a step on 8 GPUs.
        length (dict): ``max_epochs`` or ``max_iters``.
        course (Course): The learning rate.
        arch (str): Architecture of the backbone.
        drop_path_rate (float | None): Stochastic depth; None if the network has none.
        norms_undecayed (bool): Whether parameters of norm layers have no weight decay.
        undecayed (str): Matches the names of the other parameters without weight decay.
        clip_grad (dict | None): Clipping of gradients.
        augmentation (str): ``'strong'`` is that of the 300-epoch recipes, ``'plain'`` crops and
            mirrors; for classifiers.
        test_side (int): Shorter side in pixels of a test image before its crop of 224; for
            classifiers.
        head_std (float): Deviation of the initial weights of a classifier's last layer.
        multi_scale (bool): Whether a detector trains on images of several sizes.
        repeated_augmentation (bool): Whether a batch holds an image several times.
        ema (bool): Whether an exponential moving average of the weights is kept.
    """

    optimizer: dict
    batch: int
    length: dict
    course: Course
    arch: str
    drop_path_rate: float | None
    norms_undecayed: bool = False
    undecayed: str = '(?!)'
    clip_grad: dict | None = None
    augmentation: str = 'strong'
    test_side: int = 256
    head_std: float = 0.01
    multi_scale: bool = False
    repeated_augmentation: bool = False
    ema: bool = False


@dataclass(frozen=True)
class Family:
    """A folder of configs.

    Attributes:
        experiments (dict[str, tuple[str, ...]]): Names of the configs with a gap ``{}``, and what
            fills it.
        parameters (dict[str, int]): Number of parameters of each config.
        recipes (dict[str, Recipe]): The main configs. All others are variants of one of them.
        variants (tuple[set[str], ...]): Settings of the backbone that a variant may change
            together.
        nano (dict[str, int]): Number of parameters of the nano backbone of each type, and of mini
            configs where it is another.
        norms (dict[str, set[str]]): Some parameters of norm layers of each type of backbone.
        with_mini_config (set[str]): Main configs of which there is one on the built-in data.
        deeper (set[str]): Configs that only repeat the blocks of their sibling more often, so that
            a step of training would show nothing new.
        full_size (set[str]): ImageNet configs whose networks take images of 224 pixels alone.
    """

    experiments: dict[str, tuple[str, ...]]
    parameters: dict[str, int]
    recipes: dict[str, Recipe]
    variants: tuple[set[str], ...]
    nano: dict[str, int]
    norms: dict[str, set[str]]
    with_mini_config: set[str]
    deeper: set[str] = field(default_factory=set)
    full_size: set[str] = field(default_factory=set)
