# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Comparing what was exported with what the toolbox's own model predicts for the same pictures."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from torch import Tensor

from ..analysis.benchmark import interleave
from ..analysis.loaded_model import image_steps, load_image
from ..analysis.pictures import read_image
from ..datasets.bad_input import base_datasets
from ..datasets.missing import with_data_root
from ..engine.errors import UsageError
from ..engine.model import toolbox_of
from .networks import Network, RetinaBoxes, load_model

Run = Callable[[Tensor], Sequence[Tensor]]
MIN_SHARE = 0.99  # of the boxes or pixels whose class must be the same: rounding decides ties
MIN_FOUND = {'boxes': 20, 'pixels of objects': 200}  # in all pictures together


class ExportError(RuntimeError):
    """An exported network that does not compute what it should."""


@dataclass(frozen=True)
class Comparison:
    """One comparison.

    Attributes:
        kind (str): ``'noise'`` or ``'pictures'``.
        shape (tuple[int, ...]): The input's shape.
        difference (float): The largest absolute difference of outputs.
        relative (float): The same, in units of the output's largest value
            where that is above 1.
        found (int | None): Number of boxes, or of pixels that are not of the most
            frequent class, in what was predicted.
        counts (str | None): Which of them.
    """

    kind: str
    shape: tuple[int, ...]
    difference: float
    relative: float
    found: int | None = None
    counts: str | None = None

    def __str__(self) -> str:
        shape = 'x'.join(map(str, self.shape))
        found = '' if self.counts is None else f' in {self.found} {self.counts}'
        return f'{shape:<14} {self.kind:<12} largest difference {self.difference:.2g}{found}'


def toolbox_model(cfg: Config, checkpoint: str, **options: bool) -> Run:
    """Build what an exported network is compared with: the toolbox's own model.

    Args:
        cfg (Config): Config of the model.
        checkpoint (str): Its checkpoint.
        **options (bool): As of :func:`~.networks.load_model`.

    Returns:
        Callable: From images, whole RGB values from 0 to 255 of shape (B, 3, H, W), or of another
        number of channels as the config loads them, to what the model predicts for them, in the
        form of :meth:`Network.results`.
    """
    kind, model = load_model(cfg, checkpoint, **options)
    scope = toolbox_of(cfg)

    def predict(images: Tensor) -> Sequence[Tensor]:
        loaded = images.flip(1) if images.shape[1] == 3 else images
        bgr, size = loaded.to(torch.uint8), tuple(images.shape[2:])
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
        samples = [_data_sample(scope)(metainfo=meta) for _ in bgr]
        # As each toolbox's data loader collates them.
        data = dict(inputs=bgr if scope == 'mmpretrain' else list(bgr), data_samples=samples)
        with DefaultScope.overwrite_default_scope(scope), torch.no_grad():
            return kind.predicted(model, data)

    return predict


def _data_sample(scope: str | None) -> type:
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample
    elif scope == 'mmdet':
        from mmdet.structures import DetDataSample as DataSample
    else:
        from mmseg.structures import SegDataSample as DataSample
    return DataSample


def compare(
    predict: Run,
    network: Network,
    run: Run,
    sizes: Sequence[tuple[int, int]],
    batches: Sequence[int],
    photographs: Sequence[Tensor] = (),
    tolerance: float = 1e-4,
) -> Iterator[Comparison]:
    """Compare an exported network with the toolbox's model at all sizes and batches.

    Args:
        predict (Callable): From images to what the toolbox's model predicts, as
            of :func:`toolbox_model`.
        network (Network): The network that was exported; nothing is computed
            with it, but for bringing outputs into the form of predictions.
        run (Callable): The exported one, from images to its outputs.
        sizes (Sequence[tuple[int, int]]): Heights and widths in pixels.
        batches (Sequence[int]): Numbers of images.
        photographs (Sequence[Tensor]): As of :func:`read_photographs`; by
            default those of scikit-learn.
        tolerance (float): Largest relative difference. Defaults to 1e-4.

    Yields:
        Comparison: One for each size, batch, and kind of images.

    Raises:
        ExportError: If an output differs by more, or has another shape, or if
            so little was found in the pictures that nothing is known of it.
    """
    pictures = photographs or sample_photographs(network.in_channels)
    found = 0
    for height, width in sizes:
        for batch in batches:
            shape = (batch, network.in_channels, height, width)
            noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255
            for kind, images in (('noise', noise.round()), ('pictures', _fit(pictures, shape))):
                outputs = run(images)
                actual = network.results([outputs] if isinstance(outputs, Tensor) else outputs)
                result = _compare(network, kind, shape, predict(images), actual, tolerance)
                found += result.found or 0
                yield result
    _check_found(network, found)


def _compare(
    network: Network,
    kind: str,
    shape: tuple[int, ...],
    expected: Sequence[Tensor],
    actual: Sequence[Tensor],
    tolerance: float,
) -> Comparison:
    where = f'on {kind} of {"x".join(map(str, shape))}'
    found = _count_found(network, expected)
    if isinstance(network, RetinaBoxes):
        expected, actual = match_boxes(expected, actual, max(shape[2:]) / 100, where)
    difference = relative = 0.0
    for name, a, b in zip(network.output_names, expected, actual, strict=True):
        if a.shape != b.shape:
            raise ExportError(f'{name} {where} has shape {tuple(b.shape)}, not {tuple(a.shape)}.')
        if not a.is_floating_point():
            if a.numel() and (a == b).float().mean() < MIN_SHARE:
                raise ExportError(f'{name} {where} are others in more than 1 % of the places.')
        elif a.numel():
            largest = (a - b).abs().max().item()
            scaled = largest / max(1.0, a.abs().max().item())
            if not scaled <= tolerance:
                raise ExportError(
                    f'{name} {where} differ by {largest:.2g}, which is {scaled:.2g} of the largest '
                    f'value and more than the tolerance {tolerance:.2g}.'
                )
            difference, relative = max(difference, largest), max(relative, scaled)
    return Comparison(kind, shape, difference, relative, found, network.counts)


def compare_decisions(
    predict: Run, network: Network, run: Run, pictures: Sequence[Tensor], tolerance: float
) -> float:
    """Compare what an exported network in int8 decides with what the toolbox's model does.

    Its outputs are others than those in float32, so what counts is the class of an image or a
    pixel, and the boxes, each by its score.

    Args:
        predict (Callable): As of :func:`compare`.
        network (Network): The network that was exported.
        run (Callable): The exported one.
        pictures (Sequence[Tensor]): Each of shape (B, C, H, W).
        tolerance (float): Largest share of decisions that may be others.

    Returns:
        float: The share of decisions that are the same.

    Raises:
        ExportError: If it is too small, or if so little was found that nothing is known.
    """
    counts, found = torch.zeros(2), 0
    for images in pictures:
        expected = predict(images)
        counts += _agreement(network, expected, network.results(run(images)))
        found += _count_found(network, expected) or 0
    _check_found(network, found)
    share = (counts[0] / counts[1]).item()
    if not share >= 1 - tolerance:
        raise ExportError(
            f'{share:.1%} of what the network decides in int8 is what the toolbox predicts, and '
            f'at least {1 - tolerance:.1%} must be: calibrate with more pictures (--calibration), '
            'or leave it in float32.'
        )
    return share


def _agreement(network: Network, expected: Sequence[Tensor], actual: Sequence[Tensor]) -> Tensor:
    """How many decisions are the same, and how many there are."""
    if network.counts == 'boxes':  # of both sides, with one of the other that overlaps by half
        from torchvision.ops import box_iou

        same = (expected[2][:, None] == actual[2]) & (expected[3][:, None] == actual[3])
        near = same & (box_iou(expected[0], actual[0]) >= 0.5)
        found = torch.cat((near.any(1), near.any(0)))
        scores = torch.cat((expected[1], actual[1]))
        return torch.stack([scores[found].sum(), scores.sum()])
    best = [each[1] if network.counts else each[0].argmax(1) for each in (expected, actual)]
    same = best[0] == best[1]
    return torch.tensor([same.sum(), same.numel()])


def _count_found(network: Network, expected: Sequence[Tensor]) -> int | None:
    if network.counts is None:
        return None
    if network.counts == 'boxes':
        return len(expected[0])
    return int((expected[1] != expected[1].flatten().mode().values).sum())


def _check_found(network: Network, found: int) -> None:
    if network.counts and found < MIN_FOUND[network.counts]:
        raise ExportError(
            f'the model finds {found} {network.counts} in the pictures, and at least '
            f'{MIN_FOUND[network.counts]} must be compared: give pictures of its objects with '
            '--images, or a trained checkpoint.'
        )


def match_boxes(
    expected: Sequence[Tensor], actual: Sequence[Tensor], reach: float, where: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Bring boxes into the same order, and drop those that only one side has.

    Which of two equal boxes survives is up to rounding, and so is their order.

    Args:
        expected (Sequence[Tensor]): Boxes, scores, labels and images.
        actual (Sequence[Tensor]): The same of the other side.
        reach (float): How far the corners of equal boxes may be apart, in
            pixels.
        where (str): For an error.

    Returns:
        tuple[list[Tensor], list[Tensor]]: The boxes that both have.

    Raises:
        ExportError: If more than 1 % of the boxes have no partner.
    """
    same = (expected[2][:, None] == actual[2]) & (expected[3][:, None] == actual[3])
    distance = (expected[0][:, None] - actual[0]).abs().amax(-1)
    distance = distance + 100 * (expected[1][:, None] - actual[1]).abs()
    distance = distance.masked_fill(~same, torch.inf)
    if distance.numel() == 0:
        near = torch.zeros(len(expected[0]), dtype=torch.bool)
        partner = torch.zeros(len(expected[0]), dtype=torch.int64)
    else:
        near, partner = distance.min(1)
        near = near <= reach
    count = max(len(expected[0]), len(actual[0]))
    if near.sum() < MIN_SHARE * count:
        raise ExportError(f'only {int(near.sum())} of {count} boxes {where} are the same.')
    return [t[near] for t in expected], [t[partner[near]] for t in actual]


def pictures_of(cfg: Config, split: str = 'test', count: int = 4) -> list[str]:
    """Find pictures in which a model finds something: some of those that its config names.

    Args:
        cfg (Config): Config of the model.
        split (str): ``'train'``, ``'val'`` or ``'test'``. Defaults to 'test'.
        count (int): How many, evenly spread. Defaults to 4.

    Returns:
        list[str]: Files; empty where the data are not present.
    """
    settings = cfg.get(f'{split}_dataloader', {}).get('dataset')
    roots = [Path(data['data_root']) for data in with_data_root(settings)]
    if not roots or not all(root.is_dir() for root in roots):
        return []
    scope = toolbox_of(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        init_default_scope(scope)
        try:
            dataset = next(base_datasets(DATASETS.build(settings)))
        except FileNotFoundError:  # a folder of other data
            return []
    places = np.linspace(0, len(dataset) - 1, min(count, len(dataset)), dtype=int)
    return [dataset.get_data_info(int(i))['img_path'] for i in places]


def prepare_pictures(files: Sequence[str], cfg: Config) -> list[Tensor]:
    """Prepare images as a config's test pipeline does.

    Args:
        files (Sequence[str]): Image files.
        cfg (Config): Config of the model.

    Returns:
        list[Tensor]: Values from 0 to 255, each of shape (1, channels, H, W); RGB if there are
        three.

    Raises:
        UsageError: If a file is missing.
        BadInputError: If it is no image that can be read.
    """
    pictures = []
    for file in files:
        load_image(cfg, file)  # says what is wrong with it
        with DefaultScope.overwrite_default_scope(toolbox_of(cfg)):
            image = Compose(image_steps(cfg))(dict(img_path=str(file), img_id=0))['inputs']
        pictures.append((image.flip(0) if len(image) == 3 else image)[None].float())
    return pictures


def sample_photographs(channels: int = 3) -> list[Tensor]:
    """The two photographs that scikit-learn brings along.

    Args:
        channels (int): 1 makes them gray, more than 3 repeat red, green and blue. Defaults to 3.

    Returns:
        list[Tensor]: Values from 0 to 255, each of shape (channels, H, W).

    Examples:
        >>> [tuple(image.shape) for image in sample_photographs(4)]
        [(4, 427, 640), (4, 427, 640)]
    """
    from sklearn.datasets import load_sample_images

    images = [_as_tensor(array) for array in load_sample_images().images]
    if channels == 1:
        return [image.mean(0, keepdim=True).round() for image in images]
    return [image[[i % 3 for i in range(channels)]] for image in images]


def read_photographs(files: Sequence[str], cfg: Config, channels: int = 3) -> list[Tensor]:
    """Read images as a model takes them.

    Args:
        files (Sequence[str]): Image files.
        cfg (Config): Config of the model, whose first test transform loads
            what is not RGB.
        channels (int): Channels of its images. Defaults to 3.

    Returns:
        list[Tensor]: Values from 0 to 255, each of shape (channels, H, W); RGB
        if there are three.

    Raises:
        UsageError: If a file is missing, or has other channels.
        BadInputError: If it is no image that can be read.
    """
    if channels == 3:
        return [_as_tensor(np.array(read_image(file))) for file in files]
    images = [_as_tensor(load_image(cfg, file)) for file in files]
    for file, image in zip(files, images, strict=True):
        if len(image) != channels:
            raise UsageError(
                f'image {file} has {len(image)} channels where the model takes {channels}: give '
                'one like those of its data.'
            )
    return images


def _as_tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(np.atleast_3d(array)).permute(2, 0, 1).float()


def _fit(pictures: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    batch, _, height, width = shape
    resized = [
        torch.nn.functional.interpolate(
            picture[None], (height, width), mode='bilinear', antialias=True
        )
        for picture in pictures
    ]
    return torch.cat([resized[i % len(resized)] for i in range(batch)]).round().clamp(0, 255)


def time_beside(network: Network, run: Run, shape: Sequence[int], repetitions: int) -> list[float]:
    """Time PyTorch's network and the exported one in turn.

    Args:
        network (Network): The network of PyTorch.
        run (Callable): The exported one.
        shape (Sequence[int]): The input's shape.
        repetitions (int): How often.

    Returns:
        list[float]: The medians in seconds.
    """
    images = torch.rand(*shape) * 255

    def infer() -> None:
        with torch.inference_mode():
            network(images)

    return [statistics.median(t) for t in interleave([infer, lambda: run(images)], repetitions)]
