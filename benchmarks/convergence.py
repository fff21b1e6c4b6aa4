# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""How fast a small network learns with each activation of its attention, side by side.

Figure 4 of `Interpret Vision Transformers as ConvNets with Dynamic Convolutions
<https://arxiv.org/abs/2309.10713>`_ on small data: the same small DynamicViT, data and order of
images for each activation, with several seeds. The curves of each run are stored in a CSV file;
runs that are in the file are not repeated.
"""

import argparse
import csv
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import cv2
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import Tensor, nn

from mmdmformer.analysis.benchmark import describe_machine
from mmdmformer.backbones import DynamicViT
from mmdmformer.engine import runtime
from mmdmformer.engine.runtime import UsageError

VARIANTS = {
    **{name: dict(activation=name) for name in ('softmax', 'none', 'scaling')},
    **{name: dict(activation=name) for name in ('scaling_relu', 'ln', 'ln_relu')},
    'depthwise': dict(activation='none', kernel='depthwise'),
}
ARCH = dict(embed_dims=64, num_layers=4, num_heads=2, feedforward_channels=128)
CLASSES = tuple(f'digit_{digit}' for digit in range(10))  # of the built-in data
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's pixels, RGB


@dataclass(frozen=True)
class Settings:
    """What all runs have in common.

    Args:
        images (int): Training images. Defaults to 2000.
        size (int): Sides of the images in pixels. Defaults to 28.
        patch_size (int): Sides of a patch in pixels. Defaults to 4.
        epochs (int): Passes over the images. Defaults to 14.
        batch (int): Images in a step. Defaults to 25.
        lr (float): Highest learning rate, which the first epoch rises to. Defaults to 2e-3.
    """

    images: int = 2000
    size: int = 28
    patch_size: int = 4
    epochs: int = 14
    batch: int = 25
    lr: float = 2e-3


@dataclass(frozen=True)
class Epoch:
    """A row of the results.

    Args:
        variant (str): One of :data:`VARIANTS`.
        seed (int): Seed of the initial weights and of the order of images.
        epoch (int): Counted from 1.
        loss (float): Mean cross-entropy over the epoch's training batches.
        val_loss (float): Cross-entropy on the held-out images after the epoch.
        val_accuracy (float): Share of these that are classified rightly, in percent.
    """

    variant: str
    seed: int
    epoch: int
    loss: float
    val_loss: float
    val_accuracy: float


class Images(NamedTuple):
    """Images and their labels."""

    images: Tensor  # (N, 3, size, size), normalized
    labels: Tensor  # (N, )


def read_images(folder: str | Path, split: str, size: int, limit: int | None = None) -> Images:
    """Read the built-in classification data.

    Args:
        folder (str | Path): The folder of the data, such as ``data/mini/imagenet``.
        split (str): ``'train'`` or ``'val'``.
        size (int): Sides in pixels to scale the images to.
        limit (int, optional): Number of images to take, as many of each class. Defaults to all.

    Returns:
        Images: Of all classes in turn.

    Raises:
        UsageError: If there are too few.
    """
    each = None if limit is None else math.ceil(limit / len(CLASSES))
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        paths = sorted(Path(folder, split, name).glob('*.png'))[:each]
        if not paths or (each is not None and len(paths) < each):
            raise UsageError(
                f'{Path(folder, split, name)} has {len(paths)} images instead of {each or "some"}: '
                'make them with `python demo/make_mini_data.py`, or name their folder with --data.'
            )
        for path in paths:
            pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            images.append(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA))
            labels.append(label)
    stacked = torch.stack([torch.from_numpy(image) for image in images]).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return Images((stacked.float() - mean) / std, torch.tensor(labels))


def build_classifier(variant: str, settings: Settings) -> nn.Module:
    """Build the small network of a variant, with relative positions and without class token.

    Args:
        variant (str): One of :data:`VARIANTS`.
        settings (Settings): Sizes of images and patches.

    Returns:
        nn.Module: From images (B, 3, size, size) to scores (B, 10).
    """
    backbone = DynamicViT(
        ARCH,
        img_size=settings.size,
        patch_size=settings.patch_size,
        position='relative',
        with_cls_token=False,
        out_type='avg_featmap',
        **VARIANTS[variant],
    )
    backbone.init_weights()
    return nn.Sequential(backbone, _First(), nn.Linear(backbone.embed_dims, len(CLASSES)))


class _First(nn.Module):
    def forward(self, outs: tuple[Tensor, ...]) -> Tensor:
        return outs[0]


def train(
    variant: str,
    seed: int,
    data: tuple[Images, Images],
    settings: Settings,
    on_epoch: Callable[[], None] = lambda: None,
) -> list[Epoch]:
    """Train one variant from one seed: AdamW, an epoch of warm-up, then a cosine to 0.

    Args:
        variant (str): One of :data:`VARIANTS`.
        seed (int): Seed of initial weights and of the order of images, for all variants alike.
        data (tuple[Images, Images]): For training and held out.
        settings (Settings): Length, batch and learning rate.
        on_epoch (Callable): Called after each epoch. Defaults to nothing.

    Returns:
        list[Epoch]: One for each epoch.
    """
    training, held_out = data
    torch.manual_seed(seed)
    model = build_classifier(variant, settings)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), settings.lr, weight_decay=0.05)
    steps = len(training.labels) // settings.batch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate((step + 1) / steps, settings.epochs)
    )
    epochs = []
    for epoch in range(1, settings.epochs + 1):
        model.train()
        losses = []
        batches = torch.randperm(len(training.labels), generator=order).split(settings.batch)
        for batch in batches[:steps]:
            loss = F.cross_entropy(model(training.images[batch]), training.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        val_loss, accuracy = evaluate(model, held_out)
        epochs.append(Epoch(variant, seed, epoch, statistics.mean(losses), val_loss, accuracy))
        on_epoch()
    return epochs


def _rate(epoch: float, epochs: int) -> float:
    """Share of the learning rate: up a line in the first epoch, then down a cosine."""
    if epoch <= 1:
        return epoch
    return (1 + math.cos(math.pi * min(1, (epoch - 1) / max(1, epochs - 1)))) / 2


@torch.no_grad()
def evaluate(model: nn.Module, data: Images) -> tuple[float, float]:
    """Compute the cross-entropy and the percentage of images that are classified rightly."""
    model.eval()
    scores = torch.cat([model(images) for images in data.images.split(250)])
    accuracy = (scores.argmax(1) == data.labels).double().mean().item()
    return F.cross_entropy(scores, data.labels).item(), 100 * accuracy


def run_missing(
    path: Path,
    data: tuple[Images, Images],
    settings: Settings,
    variants: Sequence[str],
    seeds: int,
    minutes: float = math.inf,
    on_epoch: Callable[[], None] = lambda: None,
) -> list[Epoch]:
    """Run what the results file lacks, and add each run to it when it is complete.

    Args:
        path (Path): The CSV file, which is made if it is not there.
        data (tuple[Images, Images]): For training and held out.
        settings (Settings): What all runs have in common.
        variants (Sequence[str]): Names in :data:`VARIANTS`.
        seeds (int): How many seeds, from 0.
        minutes (float): No run is begun that would end later, judged by the longest so far.
            Defaults to no limit.
        on_epoch (Callable): Called after each epoch. Defaults to nothing.

    Returns:
        list[Epoch]: All results in the file.
    """
    start, longest = time.monotonic(), 0.0
    for variant, seed in missing_runs(path, variants, seeds):
        begin = time.monotonic()
        if begin + longest - start > 60 * minutes:
            break
        _append(path, train(variant, seed, data, settings, on_epoch))
        longest = max(longest, time.monotonic() - begin)
    return read_results(path)


def missing_runs(path: Path, variants: Sequence[str], seeds: int) -> list[tuple[str, int]]:
    """List the runs that the results file lacks; all variants of a seed come first."""
    done = {(row.variant, row.seed) for row in read_results(path)}
    runs = [(variant, seed) for seed in range(seeds) for variant in variants]
    return [run for run in runs if run not in done]


def _append(path: Path, rows: list[Epoch]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open('a', newline='') as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Epoch)], lineterminator='\n')
        if is_new:
            writer.writeheader()
        # in one piece, so that a run that is stopped leaves none or all of its rows
        writer.writerows([_rounded(row) for row in rows])


def _rounded(row: Epoch) -> dict:
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(row).items()}


def read_results(path: Path) -> list[Epoch]:
    """Read the results file; there are none if it is not there."""
    if not path.exists():
        return []
    kinds = {f.name: f.type for f in fields(Epoch)}
    with path.open(newline='') as file:
        return [
            Epoch(**{name: kinds[name](text) for name, text in row.items()})
            for row in csv.DictReader(file)
        ]


def curves(results: list[Epoch], variant: str, quantity: str) -> Tensor:
    """Collect a quantity of a variant.

    Args:
        results (list[Epoch]): All results.
        variant (str): Name of the variant.
        quantity (str): Name of a field of :class:`Epoch`.

    Returns:
        Tensor: Of shape (seeds, epochs).
    """
    by_seed: dict[int, list[float]] = {}
    for row in results:
        if row.variant == variant:
            by_seed.setdefault(row.seed, []).append(getattr(row, quantity))
    return torch.tensor(list(by_seed.values()), dtype=torch.float64)


def make_table(results: list[Epoch]) -> str:
    """Write the last epochs' means and standard deviations over the seeds in Markdown."""
    shown = {'loss': 'training loss', 'val_loss': 'held-out loss', 'val_accuracy': 'accuracy, %'}
    lines = [
        f'| activation | seeds | {" | ".join(shown.values())} | epochs to half the first loss |',
        f'|{" --- |" * (3 + len(shown))}',
    ]
    for variant in dict.fromkeys(row.variant for row in results):
        last = [curves(results, variant, quantity)[:, -1] for quantity in shown]
        loss = curves(results, variant, 'loss')
        cells = [f'{x.mean():.3g} ± {x.std(correction=0):.2g}' for x in last]
        halved = [_first_below_half(curve) for curve in loss]
        lines.append(f'| {variant} | {len(loss)} | {" | ".join(cells)} | {_counts(halved)} |')
    return '\n'.join(lines)


def _first_below_half(curve: Tensor) -> int | None:
    below = (curve <= curve[0] / 2).nonzero()
    return int(below[0]) + 1 if len(below) else None


def _counts(epochs: list[int | None]) -> str:
    return ', '.join('never' if epoch is None else str(epoch) for epoch in epochs)


def plot(results: list[Epoch], path: Path, settings: Settings) -> None:
    """Draw training loss and accuracy by epoch: means over the seeds, and the range around them.

    Args:
        results (list[Epoch]): All results.
        path (Path): Picture to write.
        settings (Settings): Named in the title.
    """
    figure = Figure(figsize=(10, 4.4), layout='constrained')
    figure.suptitle(
        f'small DynamicViT on {settings.images:,} built-in digits at {settings.size} px: '
        'mean of the seeds, band from lowest to highest'
    )
    axes = figure.subplots(1, 2)
    for axis, (quantity, label) in zip(
        axes, {'loss': 'training loss', 'val_accuracy': 'held-out accuracy, %'}.items(), strict=True
    ):
        for variant in dict.fromkeys(row.variant for row in results):
            values = curves(results, variant, quantity)
            epochs = range(1, values.shape[1] + 1)
            (line,) = axis.plot(epochs, values.mean(0), label=variant, linewidth=1.3)
            low, high = values.amin(0), values.amax(0)
            axis.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set_xlabel('epoch')
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_yscale('log')
    axes[1].legend(fontsize='small')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def parse_args() -> argparse.Namespace:
    defaults = Settings()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', default='data/mini/imagenet', help='default: %(default)s')
    parser.add_argument('--out', default='work_dirs/convergence', help='folder to write to')
    parser.add_argument(
        '--variants',
        nargs='+',
        choices=VARIANTS,
        default=list(VARIANTS),
        metavar='NAME',
        help=f'some of {", ".join(VARIANTS)} (default: all)',
    )
    parser.add_argument('--seeds', type=runtime.positive, default=3, help='default: %(default)s')
    parser.add_argument(
        '--epochs', type=runtime.positive, default=defaults.epochs, help='default: %(default)s'
    )
    parser.add_argument(
        '--images', type=runtime.positive, default=defaults.images, help='default: %(default)s'
    )
    parser.add_argument('--threads', type=runtime.positive, default=1, help='default: %(default)s')
    parser.add_argument(
        '--minutes', type=float, default=float('inf'), help='begin no run that would end later'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    settings = Settings(images=args.images, epochs=args.epochs)
    path = Path(args.out, 'results.csv')
    with runtime.one_sentence_errors():
        data = (
            read_images(args.data, 'train', settings.size, settings.images),
            read_images(args.data, 'val', settings.size),
        )
    todo = missing_runs(path, args.variants, args.seeds)
    with Progress() as progress:
        task = progress.add_task('training', total=len(todo) * settings.epochs)
        results = run_missing(
            path,
            data,
            settings,
            args.variants,
            args.seeds,
            args.minutes,
            on_epoch=lambda: progress.advance(task),
        )
    left = len(missing_runs(path, args.variants, args.seeds))
    table = make_table(results)
    measured = (
        f'Measured on {describe_machine("cpu", False)}, on {len(data[1].labels):,} held-out images.'
    )
    Path(args.out, 'table.md').write_text(f'{table}\n\n{measured}\n')
    plot(results, Path(args.out, 'curves.png'), settings)
    print(table)
    print(f'\nwrote results.csv, table.md and curves.png to {args.out}; {left} runs are left')


if __name__ == '__main__':
    main()
