# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""How much of a convolution, of self-attention and of ACmix is the 1x1 products of stage I.

Section 3 and Table 1 of `On the Integration of Self-Attention and Convolution
<https://arxiv.org/abs/2111.14556>`_, for the 3x3 convolutions of ResNet-50. Prints the table of
docs/acmix.md and writes it there.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from markdown_pages import keep_table
from mmdmformer.backbones import BottleneckResNet

PAGE = Path(__file__).resolve().parents[1] / 'docs/acmix.md'
BEGIN, END = '<!-- stages -->', '<!-- end of stages -->'
HEADER = ('operator', 'stage I', 'stage II', 'share of stage I', "the paper's text")


class Layer(NamedTuple):
    """A convolution: its channels, and the pixels that go in and come out."""

    channels: int
    pixels_in: int
    pixels_out: int


class Split(NamedTuple):
    """Multiply-adds of both stages."""

    first: int
    second: int

    @property
    def share(self) -> float:
        """The share of the first."""
        return self.first / (self.first + self.second)


def find_layers(network: nn.Module, side: int = 224) -> list[Layer]:
    """Find the 3x3 convolutions of a network that keep the number of channels.

    Args:
        network (nn.Module): The network.
        side (int): Sides of the image in pixels. Defaults to 224.

    Returns:
        list[Layer]: In order of execution.
    """
    layers = []

    def note(module: nn.Conv2d, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        pixels = (x.shape[2] * x.shape[3] for x in (inputs[0], output))
        layers.append(Layer(module.out_channels, *pixels))

    network = network.to('meta').eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_hook(note)
    network(torch.empty(1, 3, side, side, device='meta'))
    return layers


def split_convolution(layers: list[Layer], kernel: int = 3) -> Split:
    """Split convolutions into k^2 1x1 convolutions, and shifts with sums.

    Args:
        layers (list[Layer]): The convolutions.
        kernel (int): Kernel size k. Defaults to 3.

    Returns:
        Split: k^2 H W C^2 and k^2 H W C.

    Examples:
        >>> split_convolution([Layer(channels=64, pixels_in=4, pixels_out=1)])
        Split(first=36864, second=576)
    """
    return Split(
        sum(kernel**2 * layer.pixels_out * layer.channels**2 for layer in layers),
        sum(kernel**2 * layer.pixels_out * layer.channels for layer in layers),
    )


def split_attention(layers: list[Layer], window: int = 7, before_stride: bool = False) -> Split:
    """Split self-attention into projections, and what windows do with them.

    Args:
        layers (list[Layer]): What it stands in place of.
        window (int): Side k_a of the windows. Defaults to 7.
        before_stride (bool): Whether projections are made of all pixels that go in, as the
            released code does, or of those that come out. Defaults to False.

    Returns:
        Split: 3 H W C^2 and 2 k_a^2 H W C.
    """
    pixels = [layer.pixels_in if before_stride else layer.pixels_out for layer in layers]
    return Split(
        sum(3 * n * layer.channels**2 for n, layer in zip(pixels, layers, strict=True)),
        sum(2 * window**2 * layer.pixels_out * layer.channels for layer in layers),
    )


def split_acmix(
    layers: list[Layer], kernel: int = 3, window: int = 7, before_stride: bool = False
) -> Split:
    """Split ACmix: attention's stage I, and the second stages of both paths.

    Args:
        layers (list[Layer]): What it stands in place of.
        kernel (int): Kernel size k of the convolution path. Defaults to 3.
        window (int): Side of the windows. Defaults to 7.
        before_stride (bool): See :func:`split_attention`; it holds for the mixing of the maps, too.
            Defaults to False.

    Returns:
        Split: 3 H W C^2 and (2 k_a^2 + 3 k^2 + k^4) H W C.
    """
    first, second = split_attention(layers, window, before_stride)
    pixels = [layer.pixels_in if before_stride else layer.pixels_out for layer in layers]
    mixing = sum(
        3 * kernel**2 * n * layer.channels for n, layer in zip(pixels, layers, strict=True)
    )
    shifts = sum(kernel**4 * layer.pixels_out * layer.channels for layer in layers)
    return Split(first, second + mixing + shifts)


def make_table() -> str:
    """Make the table for ResNet-50 in Markdown."""
    layers = find_layers(BottleneckResNet('50'))
    rows = [
        ('3x3 convolution', split_convolution(layers), '99 %'),
        ('attention, projections at output resolution', split_attention(layers), '83 %'),
        (
            'attention, projections before the stride',
            split_attention(layers, before_stride=True),
            '83 %',
        ),
        ('ACmix, at output resolution', split_acmix(layers), ''),
        ('ACmix, before the stride', split_acmix(layers, before_stride=True), ''),
    ]
    cells = [HEADER, ('---', '---:', '---:', '---:', '---:')]
    cells += [
        (name, *(f'{count / 1e9:.3f} G' for count in split), f'{100 * split.share:.1f} %', printed)
        for name, split, printed in rows
    ]
    return '\n'.join(f'| {" | ".join(row)} |' for row in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='change nothing; fail on a difference')
    args = parser.parse_args()
    table = make_table()
    print(table)
    keep_table(PAGE, BEGIN, END, table, args.check, 'benchmarks/acmix_stages.py')


if __name__ == '__main__':
    main()
