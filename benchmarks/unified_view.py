# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Which convolutions of a network are dynamic, and what their kernels are made of.

What is dynamic is found, not declared: a forward pass is watched for products of two tensors that
both depend on the image, since a layer with such a product has weights made from its input. What
the kernels are is told by a description of the mixer's type (:mod:`~.token_mixers`), computed from
the module and its input. A product outside every described mixer gets a row of its own.
"""

import argparse
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmdmformer.engine import runtime
from mmdmformer.engine.model import build_model
from mmdmformer.engine.overrides import CfgOptions
from mmdmformer.engine.runtime import UsageError, read_config_file
from mmdmformer.mixers import (
    DMA,
    DynamicConv,
    DynamicDepthwiseConv,
    DynamicTokenAttention,
    Linformer,
)
from token_mixers import Description, find_description


@dataclass
class Row:
    """Mixers of one type and description in a network.

    Args:
        mixer (str): Name of the class.
        paths (list[str]): Where they are.
        description (Description): What they are.
        products (list[str]): The first one's products of tensors that depend on the image.
    """

    mixer: str
    paths: list[str]
    description: Description
    products: list[str]

    @property
    def is_dynamic(self) -> bool:
        """Whether weights were seen that depend on the image."""
        return bool(self.products)


# Watching


# which two operands are multiplied, by torch's name of the operation
_PRODUCTS = {
    **dict.fromkeys(['mul', 'mul_', 'mm', 'bmm', 'mv', 'dot', 'convolution', 'linear'], (0, 1)),
    **dict.fromkeys(['addmm', 'baddbmm', 'addcmul', 'addcmul_', 'addmv'], (1, 2)),
    **dict.fromkeys(['grid_sampler_2d', '_native_multi_head_attention'], (0, 1)),
    'deform_conv2d': (0, 2),  # the input and where it is read
}
_ATTENTION = '_scaled_dot_product'
_MAKES_NEW = ('empty', 'zeros', 'ones', 'full', 'rand', 'new_', 'arange')


class _Watcher(TorchDispatchMode):
    """Follows which tensors depend on the input, and calls back where two of them are multiplied.

    Args:
        x (Tensor): The input.
        on_product (Callable): Takes the name of the operation and the operands.
    """

    def __init__(self, x: Tensor, on_product: Callable[[str, Tensor, Tensor], None]) -> None:
        super().__init__()
        self._on_product = on_product
        self._kept: list[Tensor] = []  # so that no other tensor gets the memory of one of these
        self._dependent: set[int] = set()
        self._mark(x)

    def _mark(self, tensor: Tensor) -> None:
        self._kept.append(tensor)
        self._dependent.add(tensor.untyped_storage()._cdata)

    def _depends(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage()._cdata in self._dependent

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        operands = _PRODUCTS.get(name, (0, 1) if name.startswith(_ATTENTION) else None)
        if operands is not None:
            a, b = (args[i] for i in operands)
            if self._depends(a) and self._depends(b):
                self._on_product(name, a, b)
        out = func(*args, **kwargs)
        is_new = name.startswith(_MAKES_NEW) or name.endswith('_like')
        if not is_new and any(map(self._depends, tree_leaves((args, kwargs)))):
            for leaf in tree_leaves(out):
                if isinstance(leaf, Tensor):
                    self._mark(leaf)
        return out


class _Collector:
    """Makes rows of the mixers of a network during a forward pass."""

    def __init__(self, network: nn.Module) -> None:
        self.rows: dict[tuple, Row] = {}
        self._network = network
        self._stack: list[tuple[str, nn.Module]] = []
        self._mixer: tuple[nn.Module, Description] | None = None  # the described one that runs
        self._products: list[str] = []  # and what it has multiplied

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Follow which modules are running."""
        handles = []
        for path, module in self._network.named_modules():
            handles += [
                module.register_forward_pre_hook(partial(self._enter, path), with_kwargs=True),
                module.register_forward_hook(self._leave),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._stack.append((path, module))
        describe = find_description(module)
        if describe is None or self._mixer is not None:
            return
        inputs = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        description = describe(module, inputs)
        if description is not None:
            self._mixer, self._products = (module, description), []

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if self._mixer is not None and self._mixer[0] is module:
            self._add(self._mixer[1], self._products)
            self._mixer = None
        self._stack.pop()

    def on_product(self, operation: str, a: Tensor, b: Tensor) -> None:
        """Note a product of two tensors that depend on the image, where it happens."""
        product = f'{operation} of {tuple(a.shape)} and {tuple(b.shape)}'
        if self._mixer is not None:
            self._products.append(product)
        else:
            self._add(_derive(operation, a, b), [product])

    def _add(self, description: Description, products: list[str]) -> None:
        path, module = self._stack[-1]
        name = type(module).__name__
        key = name, description, bool(products)
        row = self.rows.setdefault(key, Row(name, [], description, products))
        if path not in row.paths:
            row.paths.append(path)


def _derive(operation: str, a: Tensor, b: Tensor) -> Description:
    """Describe a product that no description of a mixer covers."""
    if operation.startswith('mul') or operation.startswith('addcmul'):
        one_each = 'position' if a.numel() == b.numel() else 'image or group of positions'
        return Description('made from the input', f'one for each {one_each}', 'depthwise 1x1', '1')
    return Description('made from the input', 'not described', f'by {operation}')


def view_network(network: nn.Module, x: Tensor) -> list[Row]:
    """Find the token mixers of a network, and which of them have weights made from the input.

    Fully connected layers, 1x1 convolutions, norms and activations mix no tokens and are left out.
    Kernels outside of torch's dispatcher, such as compiled operators of mmcv, are not seen; a
    multiplication written by hand, such as ``x * sigmoid(x)``, is.

    Args:
        network (nn.Module): A backbone, or a mixer.
        x (Tensor): Input of the network, of shape (B, C, H, W) for a backbone.

    Returns:
        list[Row]: Mixers of the same type and description are one row.
    """
    collector = _Collector(network)
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), collector.hooked(), _Watcher(x, collector.on_product):
            network(x)
    finally:
        network.train(training)
    return list(collector.rows.values())


def build_backbone(name: str, options: dict[str, Any] | None = None) -> nn.Module:
    """Build a backbone, untrained.

    Args:
        name (str): A config file, or a name in the registry, with the toolbox before a dot if it
            is a toolbox's, such as ``'mmpretrain.SwinTransformer'``.
        options (dict, optional): Arguments of the backbone. Defaults to None.

    Returns:
        nn.Module: The backbone.

    Raises:
        UsageError: If there is no such backbone, or its arguments do not fit.
    """
    if name.endswith('.py'):
        cfg = read_config_file(Path(name))
        cfg.model.backbone.update(options or {})
        return build_model(cfg).backbone
    if MODELS.get(name) is None:
        raise UsageError(
            f'there is no backbone {name!r}: give a config file or a name in the registry, such as '
            'DMFormer or, with its toolbox, mmpretrain.SwinTransformer.'
        )
    try:
        return MODELS.build(dict(type=name, **(options or {})))
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise UsageError(f'{name} cannot be built with {options or {}}: {error}') from None


def view_family() -> list[tuple[str, Row]]:
    """View the mixers of the paper's Table 1, with DMFormer's beside them.

    Returns:
        list[tuple[str, Row]]: Names and rows; mixers of a DeiT-S on 14x14 tokens, of Swin-T's first
        stage, and of DMFormer-S's.
    """
    tokens, image = torch.rand(1, 196, 384), torch.rand(1, 64, 14, 14)
    windows, mask = torch.rand(4, 49, 96), torch.zeros(4, 49, 49)
    vit, swin = (384, 6, (14, 14)), (96, 3, (7, 7))
    depthwise = dict(activation='none', kernel='depthwise')
    mixers = [
        ('ViT', DynamicTokenAttention(*vit), tokens),
        ('ViT, scaling', DynamicTokenAttention(*vit, activation='scaling'), tokens),
        ('ViT, depthwise', DynamicTokenAttention(*vit, **depthwise), tokens),
        ('Swin', DynamicTokenAttention(*swin), windows),
        ('Swin, shifted', _WithMask(DynamicTokenAttention(*swin), mask), windows),
        ('Swin, depthwise', DynamicTokenAttention(*swin, **depthwise), windows),
        ('Linformer', Linformer(384, head_dim=64), torch.rand(1, 384, 14, 14)),
        ('dynamic convolution', DynamicConv(64), image),
        ('D-DW-Conv', DynamicDepthwiseConv(64), image),
        ('D-DW-Conv, homogeneous', DynamicDepthwiseConv(64, homogeneous=True), image),
        ('DMFormer', DMA(64), image),
        ('DMFormer, no gate', DMA(64, gate=False), image),
        ('depthwise convolution', nn.Conv2d(64, 64, 7, padding=3, groups=64), image),
    ]
    views = []
    for name, mixer, x in mixers:
        (row,) = view_network(mixer, x)
        views.append((name, row))
    return views


class _WithMask(nn.Module):
    """Attention in shifted windows."""

    def __init__(self, attention: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.attention = attention
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, self.mask)


# Tables

HEADER = ('', 'number', 'dynamic', *(f.name for f in fields(Description)))


def make_table(rows: Sequence[Row], names: Sequence[str] | None = None) -> list[list[str]]:
    """Make the cells of a table.

    Args:
        rows (Sequence[Row]): What :func:`view_network` found.
        names (Sequence[str], optional): What to call them. Defaults to their classes' names.

    Returns:
        list[list[str]]: :data:`HEADER` and a line for each row.
    """
    lines = [list(HEADER)]
    for name, row in zip(names or [row.mixer for row in rows], rows, strict=True):
        dynamic = 'yes' if row.is_dynamic else 'no'
        cells = [text or '-' for text in astuple(row.description)]
        lines.append([name, str(len(row.paths)), dynamic, *cells])
    return lines


def make_text(table: Sequence[Sequence[str]]) -> str:
    """Lay out the cells of a table in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )


def make_markdown(table: Sequence[Sequence[str]]) -> str:
    """Write the cells of a table in Markdown."""
    header, *lines = table
    rows = [header, ['---'] * len(header), *lines]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in rows)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'backbone',
        nargs='?',
        help='config file or name in the registry, such as DMFormer or mmpretrain.SwinTransformer',
    )
    parser.add_argument(
        '--options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='arguments of the backbone, such as arch=large',
    )
    parser.add_argument(
        '--size', type=runtime.positive, default=224, help='side in pixels (default: 224)'
    )
    parser.add_argument('--markdown', action='store_true', help='print Markdown')
    parser.add_argument('--where', action='store_true', help='list the modules of each row')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with runtime.one_sentence_errors():
        if args.backbone is None:
            names, rows = zip(*view_family(), strict=True)
        else:
            backbone = build_backbone(args.backbone, args.options)
            rows = view_network(backbone, torch.rand(1, 3, args.size, args.size))
            names = [row.mixer for row in rows]
    table = make_table(rows, names)
    print((make_markdown if args.markdown else make_text)(table))
    if args.where:
        for name, row in zip(names, rows, strict=True):
            print(f'\n{name}: {", ".join(row.paths)}')
            for product in row.products:
                print(f'    {product}')


if __name__ == '__main__':
    main()
