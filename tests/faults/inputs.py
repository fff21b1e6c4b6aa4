# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Damaged images, annotations and configs, read as training reads them."""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from PIL import Image

from mmdmformer.datasets.bad_input import BadInputError, guard_pipeline
from mmdmformer.engine.overrides import CfgOptions
from mmdmformer.engine.runtime import UsageError, read_config_file

from . import Outcome, fault
from .cases import Failure, run_cases
from .damage import IMAGES, SIDE, corrupt, damaged_json, damaged_map, damaged_text
from .mini_runs import CONFIGS, make_data

_MINI = dict(
    classification=('dmformer-nano_mini-imagenet.py', 'imagenet'),
    detection=('mask-rcnn_dmformer-nano_fpn_mini-coco.py', 'coco'),
    segmentation=('dmformer-nano_sem-fpn_mini-ade20k.py', 'ade/ADEChallengeData2016'),
)


@cache
def _config(task: str) -> Config:
    return Config.fromfile(CONFIGS / 'mini' / _MINI[task][0])


def build(task: str, data: Path, split: str = 'train') -> BaseDataset:
    """Build the data set of a mini config, guarded as in training.

    Args:
        task (str): ``'classification'``, ``'detection'`` or ``'segmentation'``.
        data (Path): Folder in the layout of the built-in data.
        split (str): ``'train'`` or ``'val'``. Defaults to ``'train'``.
    """
    cfg = _config(task)
    settings = copy.deepcopy(cfg[f'{split}_dataloader'].dataset)
    settings.data_root = str(data / _MINI[task][1])
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        init_default_scope(cfg.default_scope)
        dataset = DATASETS.build(settings)
    guard_pipeline(dataset)
    return dataset


def _refused(error: Exception, *names: Path | str) -> str:
    """Say that an error is as it should be: one sentence that names one of the files."""
    text = str(error)
    if '\n' in text or not any(str(name) in text for name in names):
        raise Failure(f'the error names no file: {type(error).__name__}: {text[:200]}') from error
    return 'refused with its name'


# Images


@fault(
    'Input',
    'Damaged images',
    how='cut off, other bytes, no image, wrong extension, CMYK, palette, alpha, 16 bits, animated, '
    'one pixel, a line, billions of pixels, EXIF-rotated, missing, a folder',
    times=1000,
)
def damaged_images(times: int, folder: Path, seed: int) -> Outcome:
    """Put damaged images into the training sets of the three tasks.

    An image must be refused with its name, or be what was drawn, with the labels it had.
    """
    data = make_data(folder)
    datasets = {task: build(task, data) for task in _MINI}
    return run_cases(partial(_damage_image, datasets), times, seed)


def _damage_image(datasets: dict[str, BaseDataset], rng: np.random.Generator) -> str:
    task = str(rng.choice(list(datasets)))
    dataset = datasets[task]
    index = int(rng.integers(len(dataset)))
    path = Path(dataset.get_data_info(index)['img_path'])
    kinds = [*IMAGES, 'corrupt', 'missing', 'folder']
    kind = kinds[rng.integers(len(kinds))]
    content, expected = path.read_bytes(), None
    try:
        if kind in IMAGES:
            damaged, expected = IMAGES[kind](rng)
            path.write_bytes(damaged)
        elif kind == 'corrupt':
            path.write_bytes(corrupt(content, rng))
        else:
            path.unlink()
            if kind == 'folder':
                path.mkdir()
        return _judge_image(dataset, index, kind, expected)
    finally:
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(content)


def _judge_image(dataset: BaseDataset, index: int, kind: str, expected: Any) -> str:
    info = dataset.get_data_info(index)
    # Classification takes any size; boxes and label maps are for one.
    fits = 'gt_label' in info or expected is None or expected.size == (SIDE, SIDE)
    try:
        pixels = dataset.pipeline.transforms[0](dict(info))['img']
        sample = dataset.pipeline(dataset.get_data_info(index))
    except BadInputError as error:
        if expected is not None and fits:
            raise Failure(f'{kind} is refused: {error}') from error
        return _refused(error, info['img_path'])
    except RuntimeError as error:  # a line of pixels can be too thin to be resized
        if kind != 'other_size':
            raise
        return _refused(error, info['img_path'])
    if kind == 'corrupt':
        return 'read, with pixels that no decoder can know to be wrong'
    if expected is None or not fits:
        raise Failure(f'{kind} is read')
    difference = np.abs(pixels[..., ::-1].astype(float) - np.asarray(expected)).mean()
    if difference > 4:  # of 255; lossy formats change colors
        raise Failure(f'{kind} is read as another image ({difference:.0f} of 255 off)')
    if 'gt_label' in info and sample['data_samples'].gt_label.item() != info['gt_label']:
        raise Failure(f'{kind} changes the label')
    return 'read as it was drawn'


# Annotations


@fault(
    'Input',
    "Damaged files of COCO's annotations",
    how='other bytes; entries and values lost, doubled, exchanged or replaced by nonsense',
    times=400,
)
def damaged_instances(times: int, folder: Path, seed: int) -> Outcome:
    """Damage the JSON file. What is read must be what it says, masks included."""
    data = make_data(folder)
    build('detection', data)  # imports what it needs before the worker starts
    path = data / 'coco/annotations/instances_train2017.json'
    return run_cases(partial(_damage_instances, data, path, path.read_bytes()), times, seed)


def _damage_instances(data: Path, path: Path, content: bytes, rng: np.random.Generator) -> str:
    path.write_bytes(damaged_json(json.loads(content), rng))
    try:
        dataset = build('detection', data)
        found = {}
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            for load in dataset.pipeline.transforms[:2]:
                info = load(info)
            found[info['img_id']] = (
                info['gt_bboxes_labels'].tolist(),
                info['gt_bboxes'].tensor.numpy(),
                info['gt_ignore_flags'].tolist(),
                info['gt_masks'].masks,
            )
            dataset.pipeline(dataset.get_data_info(index))
    except BadInputError as error:
        return _refused(error, path, data / 'coco/train2017')
    said = _read_instances(json.loads(path.read_bytes()))
    for image, (labels, boxes, crowds, masks) in found.items():
        for name, value, expected in zip(
            ('labels', 'boxes', 'crowds', 'masks'),
            (labels, boxes, crowds, masks),
            zip(*said[image], strict=True) if said[image] else ([],) * 4,
            strict=True,
        ):
            if name == 'masks' and any(mask is None for mask in expected):
                continue  # polygons
            if len(value) != len(expected) or not np.allclose(value, list(expected)):
                raise Failure(f'image {image} gets other {name} than the file says')
    return 'read as the file says'


def _read_instances(content: dict) -> dict[Any, list[tuple]]:
    """Label, corners, crowd and mask of each instance, by its image.

    Left out are instances that are marked so, have no area, none within the image or no mask.
    """
    order = [category['name'] for category in content['categories']]
    names = {category['id']: category['name'] for category in content['categories']}
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    found: dict[Any, list[tuple]] = {key: [] for key in sizes}
    for instance in content.get('annotations', ()):
        x, y, w, h = instance['bbox']
        width, height = sizes[instance['image_id']]
        area = instance.get('area', 1)  # that of the box or the mask if it is missing
        finite = bool(np.isfinite(instance['bbox']).all())
        inside = finite and min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0)
        if instance.get('ignore') or not inside or area <= 0 or min(w, h) < 1:
            continue
        label, mask = order.index(names[instance['category_id']]), instance.get('segmentation')
        if not mask or mask == [[]]:
            continue
        if isinstance(mask, dict) and isinstance(mask['counts'], list):
            bits = np.repeat(np.arange(len(mask['counts'])) % 2, mask['counts'])
            mask = bits.reshape(width, height).T
        else:
            mask = None
        corners = [x, y, x + w, y + h]
        found[instance['image_id']].append((label, corners, bool(instance.get('iscrowd')), mask))
    return found


@fault(
    'Input',
    "Damaged label maps in ADE20K's layout",
    how='other bytes, formats, depths, sizes, colors, values out of range, EXIF-rotated, missing',
    times=300,
)
def damaged_maps(times: int, folder: Path, seed: int) -> Outcome:
    """Damage label maps. What is read must be the labels that were drawn."""
    dataset = build('segmentation', make_data(folder))
    return run_cases(partial(_damage_map, dataset), times, seed)


def _damage_map(dataset: BaseDataset, rng: np.random.Generator) -> str:
    index = int(rng.integers(len(dataset)))
    info = dataset.get_data_info(index)
    path = Path(info['seg_map_path'])
    content = path.read_bytes()
    labels = np.asarray(Image.open(path))
    try:
        if rng.random() < 0.3:
            path.write_bytes(corrupt(content, rng))
            expected = labels
        else:
            damaged, expected = damaged_map(labels, rng)
            path.write_bytes(damaged)
        for load in dataset.pipeline.transforms[:2]:
            info = load(info)
        dataset.pipeline(dataset.get_data_info(index))
    except BadInputError as error:
        return _refused(error, path)
    finally:
        path.write_bytes(content)
    if expected is None:
        raise Failure('labels that cannot be right are read')
    # 0 is unlabeled, and classes count from 1
    if not np.array_equal(info['gt_seg_map'], np.where(expected == 0, 255, expected - 1)):
        raise Failure('other labels are read than were drawn')
    return 'read as it was drawn'


@fault(
    'Input',
    "Damaged lists and class folders in ImageNet's layout",
    how='lines with other bytes, lost, mixed or with nonsense; folders renamed, lost or added',
    times=300,
)
def damaged_classes(times: int, folder: Path, seed: int) -> Outcome:
    """Damage what says the class of an image. Labels must be what the list or the folders say."""
    data = make_data(folder)
    build('classification', data)
    return run_cases(partial(_damage_classes, data), times, seed)


def _damage_classes(data: Path, rng: np.random.Generator) -> str:
    with TemporaryDirectory(dir=data) as place:
        root = Path(shutil.copytree(data / 'imagenet', Path(place) / 'imagenet'))
        split = str(rng.choice(['train', 'val']))
        names = sorted(folder.name for folder in (root / split).iterdir())
        if rng.random() < 0.6:
            path = root / f'meta/{split}.txt'
            path.parent.mkdir()
            files = [file for name in names for file in sorted((root / split / name).iterdir())]
            lines = [f'{f.parent.name}/{f.name} {names.index(f.parent.name)}' for f in files]
            path.write_bytes(damaged_text('\n'.join(lines), rng))
        else:
            path = root / split / str(rng.choice(names))
            path.rename(path.with_name(str(rng.choice(['digit_x', '.hidden', 'a']))))
            if rng.random() < 0.3:
                path.mkdir()
        try:
            infos = [
                dataset.get_data_info(index)
                for dataset in (build('classification', Path(place), s) for s in ('train', 'val'))
                for index in range(len(dataset))
            ]
        except BadInputError as error:
            return _refused(error, path, path.parent)
        said = dict.fromkeys(str(file) for file in root.glob('*/*/*'))
        said = {file: names.index(Path(file).parent.name) for file in said}
        if path.suffix == '.txt':
            for line in path.read_bytes().decode().rstrip('\n').split('\n'):
                name, label = line.strip().rsplit(' ', 1)
                said[str(root / split / name)] = int(label)
    for info in infos:
        if info['gt_label'] != said[info['img_path']]:
            raise Failure(f'{info["img_path"]} gets another label than is said')
    return 'read as the file says'


# Configs and options


@fault(
    'Input',
    'Damaged configs',
    how='other bytes; lines and words lost, doubled, exchanged or replaced, in a config or a base',
    times=700,
)
def damaged_configs(times: int, folder: Path, seed: int) -> Outcome:
    """Damage configs. They must be read, or be refused with the name of the config."""
    configs = Path(shutil.copytree(CONFIGS, folder / 'configs'))
    return run_cases(partial(_damage_config, configs), times, seed)


def _damage_config(configs: Path, rng: np.random.Generator) -> str:
    config = configs / 'mini' / _MINI[str(rng.choice(list(_MINI)))][0]
    bases = [Path(config), *sorted((configs / '_base_').rglob('*.py'))]
    path = bases[rng.integers(len(bases)) if rng.random() < 0.5 else 0]
    content = path.read_bytes()
    try:
        path.write_bytes(damaged_text(content.decode(), rng))
        read_config_file(config, {'randomness.seed': 1} if rng.random() < 0.5 else {})
    except UsageError as error:
        return _refused(error, config)
    finally:
        path.write_bytes(content)
    return 'read'


@fault(
    'Input',
    'Nonsense in --cfg-options',
    how='keys that do not exist or fit; values with brackets, quotes, templates, numbers and code',
    times=300,
)
def nonsense_options(times: int, folder: Path, seed: int) -> Outcome:
    """Give options that mean nothing. They must be told, or change the config as they say."""
    return run_cases(partial(_give_options, folder / 'mark'), times, seed)


def _give_options(mark: Path, rng: np.random.Generator) -> str:
    name = str(rng.choice([name for name, _ in _MINI.values()]))
    keys = (
        'data_root', 'work_dir', 'model.backbone.arch', 'train_pipeline.0.type', 'a.b.c', '',
        'param_scheduler.99.type', 'resume.x', 'model', '_base_', '_delete_', 'load_from',
        'train_dataloader.dataset', 'model..x', 'experiment_name', 'default_scope',
        'val_dataloader.dataset.data_root', 'test_evaluator.metric', 'randomness.seed',
    )  # fmt: skip
    code = f'__import__("os").mkdir("{mark}")'
    values = (
        '', '3', '-1e400', 'nan', 'inf', '[', '(1,(2,', '[[[]]]', '"', "'", '\\', '1,2,3', 'None',
        '{}', '{{$HOME:x}}', '{{fileDirname}}', '{{_base_.lr}}', '\0', code, f'[{code}]',
        f'{{{{$X:"+str({code})+"}}}}', f"'+str({code})+'", 'ü', '(' * 5000, '=', '..',
    )  # fmt: skip
    chosen = [
        f'{keys[rng.integers(len(keys))]}={values[rng.integers(len(values))]}'
        for _ in range(rng.integers(1, 3))
    ]
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    path = CONFIGS / 'mini' / name
    try:
        options = parser.parse_args(['--cfg-options', *chosen]).cfg_options
        cfg = read_config_file(path, options)
    except argparse.ArgumentError as error:
        return _refused(error, *(repr(option) for option in chosen))
    except UsageError as error:
        return _refused(error, path)
    finally:
        if mark.exists():
            mark.rmdir()
            raise Failure(f'code runs: {chosen}')
    for key, value in options.items():
        if key in cfg and repr(cfg[key]) != repr(value) and not isinstance(cfg[key], dict):
            raise Failure(f'{key} is {cfg[key]!r:.80}, not {value!r:.80}')
    return 'read as they say'
