# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Draw DMFormer's block and its token mixer, DMA, after equations 1 to 3 of arXiv 2209.07738."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

COLORS = {
    'norm': '#e8e8e8',
    'mixer': '#ffd9a0',
    'convolution': '#bcdcf5',
    'depthwise': '#7fbde9',
    'gate': '#c9e7c2',
}
HEIGHT = 0.62  # of a box, where two neighbors on the main line are 1.9 apart


def draw_box(axes: Axes, x: float, y: float, text: str, kind: str, width: float = 1.4) -> None:
    """Draw a layer, centered at a point."""
    corner = (x - width / 2, y - HEIGHT / 2)
    style = 'round,pad=0,rounding_size=0.1'
    axes.add_patch(
        FancyBboxPatch(corner, width, HEIGHT, style, facecolor=COLORS[kind], edgecolor='#404040')
    )
    axes.text(x, y, text, ha='center', va='center', fontsize=8.5)


def draw_operation(axes: Axes, x: float, y: float, sign: str) -> None:
    """Draw an elementwise operation, centered at a point."""
    axes.plot(x, y, 'o', markersize=15, markerfacecolor='white', markeredgecolor='#404040')
    axes.text(x, y, sign, ha='center', va='center_baseline', fontsize=12)


def draw_path(axes: Axes, *points: tuple[float, float]) -> None:
    """Draw a line through points, with an arrow at its end."""
    for start, end in zip(points[:-2], points[1:-1], strict=True):
        axes.plot(*zip(start, end, strict=True), color='#404040', linewidth=1.1, zorder=0)
    arrow = {'arrowstyle': '-|>', 'color': '#404040', 'shrinkA': 0, 'shrinkB': 0, 'linewidth': 1.1}
    axes.annotate('', points[-1], points[-2], arrowprops=arrow, zorder=0)


def draw_block(axes: Axes) -> None:
    """The block of a MetaFormer, with DMA in its slot."""
    axes.set_title('Block', loc='left', fontsize=11, fontweight='bold')
    axes.text(0, 0, 'x', ha='center', va='center', fontsize=11, style='italic')
    layers = [('BN', 'norm'), ('token mixer:\nDMA', 'mixer'), ('layer scale', 'norm')]
    after = [('BN', 'norm'), ('FFN', 'convolution'), ('layer scale', 'norm')]
    previous = 0.25
    for first, part in ((1.6, layers), (8.6, after)):
        for i, (text, kind) in enumerate(part):
            x = first + 1.9 * i
            draw_path(axes, (previous, 0), (x - 0.7, 0))
            draw_box(axes, x, 0, text, kind)
            previous = x + 0.7
        total = first + 5.4
        draw_path(axes, (previous, 0), (total - 0.22, 0))
        draw_operation(axes, total, 0, '+')
        start = first - 1.1
        draw_path(axes, (start, 0), (start, 0.75), (total, 0.75), (total, 0.24))
        previous = total + 0.22
    draw_path(axes, (previous, 0), (previous + 0.7, 0))


def draw_mixer(axes: Axes) -> None:
    """Dynamic Multi-level Attention."""
    axes.set_title('DMA: Dynamic Multi-level Attention', loc='left', fontsize=11, fontweight='bold')
    axes.text(0, 0, 'x', ha='center', va='center', fontsize=11, style='italic')
    draw_path(axes, (0.25, 0), (0.9, 0))
    draw_box(axes, 1.75, 0, '1x1, C to 4C\nBN, ReLU', 'convolution', 1.7)
    for y, text in ((0.85, '3x3'), (0, '5x5, dilation 2'), (-0.85, '7x7, dilation 3')):
        draw_path(axes, (2.6, 0), (2.9, 0), (2.9, y), (3.3, y))
        draw_box(axes, 4.2, y, f'depthwise\n{text}', 'depthwise', 1.8)
        end = (5.85, y) if y == 0 else (6.07, 0.24 if y > 0 else -0.24)
        draw_path(axes, (5.1, y), *([] if y == 0 else [(6.07, y)]), end)
    draw_operation(axes, 6.07, 0, '+')
    draw_path(axes, (6.29, 0), (6.7, 0))
    draw_box(axes, 7.25, 0, 'BN\nReLU', 'norm', 1.1)
    draw_path(axes, (7.8, 0), (8.2, 0))
    draw_box(axes, 9.05, 0, '1x1, 4C to C\nBN', 'convolution', 1.7)
    draw_path(axes, (9.9, 0), (10.28, 0))
    draw_operation(axes, 10.5, 0, '+')
    draw_path(axes, (0.45, 0), (0.45, 1.4), (10.5, 1.4), (10.5, 0.24))
    draw_path(axes, (10.72, 0), (11.1, 0))
    draw_box(axes, 11.95, 0, '1x1, C to C\nBN, ReLU', 'convolution', 1.7)
    draw_path(axes, (12.8, 0), (13.78, 0))
    draw_operation(axes, 14.0, 0, '×')
    draw_path(axes, (14.22, 0), (14.92, 0))
    draw_path(axes, (0.45, 0), (0.45, -1.65), (3.3, -1.65))
    draw_box(axes, 4.2, -1.65, 'global average', 'gate', 1.8)
    draw_path(axes, (5.1, -1.65), (6.7, -1.65))
    draw_box(axes, 8.3, -1.65, 'linear, ReLU, linear, sigmoid', 'gate', 3.2)
    draw_path(axes, (9.9, -1.65), (14.0, -1.65), (14.0, -0.24))
    axes.text(12.0, -1.55, 'gate of each channel', ha='center', va='bottom', fontsize=8.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, required=True, help='picture to write')
    args = parser.parse_args()
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9.6, 4.4), height_ratios=[1.5, 3.6], layout='constrained'
    )
    draw_block(above)
    draw_mixer(below)
    above.set(xlim=(-0.3, 15.1), ylim=(-0.5, 1.0))
    below.set(xlim=(-0.3, 15.1), ylim=(-2.05, 1.55))
    for axes in (above, below):
        axes.axis('off')
    figure.savefig(args.out, dpi=180)


if __name__ == '__main__':
    main()
