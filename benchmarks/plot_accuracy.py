# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Draw the accuracies on ImageNet-1K that the papers print over numbers of parameters.

The accuracies are the papers' own, from the metafiles; no network was trained here. Parameters are
those of the models that the configs build. It is Figure 1 of DMFormer's paper with the networks
that are here.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from mmdmformer.engine import runtime
from paper_table import ROOT, read_metafiles, read_models

# Networks of a line, by their configs, from small to large.
LINES = {
    'DMFormer': ('dmformer/dmformer-s', 'dmformer/dmformer-l'),
    'ResNet-ACmix': tuple(f'acmix/resnet-acmix-{depth}' for depth in (26, 38, 50)),
    'SAN-ACmix': tuple(f'acmix/san-acmix-{depth}' for depth in (10, 15, 19)),
    'PVT-ACmix': ('acmix/pvt-acmix-t', 'acmix/pvt-acmix-s'),
    'Swin-ACmix': ('acmix/swin-acmix-t', 'acmix/swin-acmix-s'),
    'DeiT, relative positions': ('dynamic/dynamic-deit-s-rel', 'dynamic/dynamic-deit-b-rel'),
    'DeiT, depthwise': (
        'dynamic/dynamic-deit-s-rel-depthwise',
        'dynamic/dynamic-deit-b-rel-depthwise',
    ),
    'Swin': ('dynamic/dynamic-swin-t', 'dynamic/dynamic-swin-b'),
    'Swin, depthwise': (
        'dynamic/dynamic-swin-t-depthwise-per-channel',
        'dynamic/dynamic-swin-b-depthwise',
    ),
}


def read_points(models: list[dict]) -> dict[str, list[tuple[float, float]]]:
    """Read the points of each line.

    Args:
        models (list[dict]): Entries of all metafiles.

    Returns:
        dict: For each line the millions of parameters, exact, and the top-1 accuracies in per
        cent, printed.
    """
    by_config = {m['Config'].split('_8xb')[0].removeprefix('configs/'): m for m in models}
    return {
        line: [
            (by_config[name]['Metadata']['Parameters'] / 1e6, by_config[name]['Paper']['Top-1'])
            for name in names
        ]
        for line, names in LINES.items()
    }


def plot(points: dict[str, list[tuple[float, float]]], picture: Path) -> None:
    """Draw the lines.

    Args:
        points (dict): What :func:`read_points` gives.
        picture (Path): Picture to write; its folder is made.
    """
    figure = Figure(figsize=(8, 5), layout='constrained')
    axes = figure.add_subplot()
    for i, (line, values) in enumerate(points.items()):
        axes.plot(*zip(*values, strict=True), marker='osD^vP*Xh'[i], label=line)
    axes.set_xscale('log')
    ticks = (10, 15, 20, 30, 40, 60, 80)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel('parameters, millions (of our configs)')
    axes.set_ylabel('top-1 on ImageNet-1K, % (printed in the papers)')
    axes.set_title("The papers' own accuracies; nothing was trained here", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out',
        type=runtime.picture,
        default=ROOT / 'docs/images/accuracy.png',
        metavar='PICTURE',
        help='default: docs/images/accuracy.png',
    )
    args = parser.parse_args()
    models = [entry for metafile in read_metafiles(ROOT) for entry in read_models(metafile)]
    plot(read_points(models), Path(args.out))
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
