# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer-nano in place of the backbone of every algorithm of mmdet, mmseg and mmpretrain.

Of each folder of configs that an installed toolbox brings, one config is taken. Its backbone gives
way to DMFormer-nano, necks and heads get DMFormer's channels, and two random images of 128 pixels
(of 224, and then of 320, where the config's own backbone cannot work with that) go through loss,
backward pass and prediction. A row passes if the loss is finite, if it moves the backbone,
and if each image gets a prediction; networks that are pretrained without labels predict nothing.
Where a row fails, the same is tried with the config's own backbone. Nothing is downloaded: configs
that want a pretrained language model fail.

Each row is appended to benchmarks/algorithms/results.csv at once, and what is there is not run
again. The table of docs/plug_in.md is made of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import multiprocessing
import os
import re
import resource
import signal
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate, pseudo_collate
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope

import mmdmformer  # noqa: F401  (registers, and serves mmcv.ops)
from markdown_pages import keep_table
from mmdmformer.engine.runtime import positive

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks/algorithms/results.csv'
PAGE = ROOT / 'docs/plug_in.md'
BEGIN, END = '<!-- algorithms table -->', '<!-- end of algorithms table -->'
TOOLBOXES = ('mmdet', 'mmseg', 'mmpretrain')
FIELDS = ('toolbox', 'algorithm', 'config', 'result', 'reason')
PASSES, FAILS, OWN_FAILS, OTHER_KIND = 'passes', 'fails', 'its own fails too', 'of another kind'
SIDES, BATCH = (128, 224, 320), 2
SIDE = SIDES[0]


class OtherKind(Exception):
    """The algorithm has no backbone that gives feature maps."""


def algorithms(toolbox: str) -> Iterator[tuple[str, Path]]:
    """Yield each folder of configs, and the config that stands for it: one of a model, of a
    ResNet-50 where there is one, with a short name."""
    folder = Path(import_module(toolbox).__file__).parent / '.mim/configs'
    for algorithm in sorted(folder.iterdir()):
        if algorithm.is_dir() and not algorithm.name.startswith('_'):
            configs = sorted(algorithm.glob('*.py'), key=_preference)
            if configs:
                yield algorithm.name, next(filter(_has_model, configs), configs[0])


def _preference(config: Path) -> tuple:
    return not re.search('r50|resnet50', config.name), len(config.name), config.name


def _has_model(config: Path) -> bool:
    try:
        return 'type' in Config.fromfile(config).get('model', {})
    except (FileNotFoundError, RuntimeError):  # its own fault, which its row will name
        return True


def run(toolbox: str, config: Path) -> tuple[str, str]:
    """Try one config.

    Returns:
        tuple[str, str]: The result and the reason, which is empty if it passes.
    """
    try:
        try_once(toolbox, load(toolbox, config), swap=True)
        return PASSES, ''
    except OtherKind as error:
        return OTHER_KIND, str(error)
    except Exception as error:
        traceback.print_exc()
        reason = describe(error)
    try:
        try_once(toolbox, load(toolbox, config), swap=False)
    except Exception as error:
        return OWN_FAILS, describe(error)
    return FAILS, reason


def describe(error: Exception) -> str:
    """The error in one short line, without the folders of files."""
    lines = re.sub(r'[^\s"\'`]*/', '', str(error)).strip().splitlines() or ['']
    return ' '.join(f'{type(error).__name__}: {lines[0]}'.split()).rstrip(':')[:160]


def load(toolbox: str, path: Path) -> Config:
    """Load a config for tiny images, one process and no downloads of weights."""
    cfg = Config.fromfile(path)
    init_default_scope(toolbox)
    if 'type' not in cfg.get('model', {}):
        raise OtherKind('the config has no model')
    for node in _dicts(cfg.model):
        for key in ('pretrained', 'teacher_ckpt', 'init_cfg', 'batch_augments'):
            if node.get(key) is not None:
                node[key] = None
        if node.get('type') in ('SyncBN', 'SparseSyncBatchNorm2d'):
            node['type'] = node['type'].replace('Sync', '')
        if (
            'pad_size_divisor' not in node
            and node.get('size')
            and 'DataPreprocessor' in str(node.get('type'))
        ):
            node['size'] = (SIDE, SIDE)
    if toolbox == 'mmseg':
        cfg.model.setdefault('test_cfg', {})['mode'] = 'whole'
    return cfg


def try_once(toolbox: str, cfg: Config, swap: bool) -> None:
    """Loss, backward pass and prediction.

    Raises:
        Exception: Whatever goes wrong.
    """
    torch.manual_seed(0)
    np.random.seed(0)
    registry = import_module(f'{toolbox}.registry')
    if swap:
        swap_backbones(cfg.model, registry.MODELS)
    if 'MMSyncBN' in json.dumps(cfg.model.to_dict(), default=str):  # wants a group of processes
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    model = registry.MODELS.build(cfg.model).train()
    MessageHub.get_current_instance().update_info('epoch', 0)  # as a runner does
    losses = model(**model.data_preprocessor(make_batch(toolbox, cfg), True), mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    if not loss.isfinite():
        raise ArithmeticError('the loss is not finite')
    if swap:
        gradients = [p.grad for n, p in model.named_parameters() if '.mixer.' in n]
        if not any(g is not None and g.isfinite().all() and g.any() for g in gradients):
            raise ArithmeticError('no finite gradient reaches the backbone')
    model.eval()
    if _is_pretraining(cfg):
        return
    batch = make_batch(toolbox, cfg)
    for i in range(len(batch['data_samples'])):  # one by one, as guided anchoring needs it
        single = model.data_preprocessor({key: of[i : i + 1] for key, of in batch.items()}, False)
        with torch.no_grad():
            predictions = model(**single, mode='predict')
        if len(predictions) != 1:
            raise ArithmeticError(f'an image got {len(predictions)} predictions')


def swap_backbones(model: dict, registry) -> None:
    """Replace each backbone of a model's config, and what necks and heads know of its channels."""
    owners = [node for node in _dicts(model) if 'type' in (node.get('backbone') or {})]
    if not owners:
        raise OtherKind('no part of the network is called backbone')
    for owner in owners:
        old, strides = probe(registry.build(dict(owner.backbone)))
        stages = [round(math.log2(stride)) - 2 for stride in strides]
        if stages != sorted(set(stages) & {0, 1, 2, 3}):  # dilated, or of other strides
            stages = list(range(4))[-len(old) :]
        owner.backbone = dict(type='DMFormer', arch='nano', out_indices=tuple(stages))
        widths = registry.build(dict(owner.backbone)).out_channels
        new = [widths[stage] for stage in stages] if len(widths) != len(stages) else list(widths)
        necks = owner.get('neck') or []
        necks = necks if isinstance(necks, (list, tuple)) else [necks]
        if not any(_set_channels(neck, old, new) for neck in necks):  # the first that has some
            readers = [child for key, child in owner.items() if key not in ('backbone', 'neck')]
            _set_channels(readers, old, new)


def probe(backbone: torch.nn.Module) -> tuple[list[int], list[int]]:
    """Channels and strides of what a backbone gives."""
    backbone.eval()  # some toolboxes' own do not return themselves
    try:
        with torch.no_grad():
            outputs = backbone(torch.zeros(1, 3, SIDE, SIDE))
    except Exception as error:
        raise OtherKind(f'its backbone does not take an image alone ({describe(error)})') from None
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    if not all(isinstance(x, torch.Tensor) and x.dim() == 4 for x in outputs):
        raise OtherKind('its backbone gives tokens or vectors, no feature maps')
    return [x.size(1) for x in outputs], [max(1, SIDE // x.size(-1)) for x in outputs]


def _set_channels(node, old: list[int], new: list[int]) -> bool:
    """Change the first part's numbers of input channels; whether there were any."""
    if isinstance(node, (list, tuple)):
        changed = [_set_channels(child, old, new) for child in node]
        return any(changed)
    if not isinstance(node, dict):
        return False
    changed = False
    for key, value in node.items():
        if 'in_channels' not in key:
            changed |= _set_channels(value, old, new)
            continue
        index = node.get('in_index') if key == 'in_channels' else None
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if index is None and old.count(value) > 1:
            raise OtherKind(f'one width serves the {len(old)} maps of its backbone')
        places = index if isinstance(index, (list, tuple)) else [index]
        if index is None:
            whole = values == old
            places = range(len(old)) if whole else [_place(old, v) for v in values]
        if None not in places:
            found = [new[place] for place in places]
            node[key] = found if isinstance(value, (list, tuple)) else found[0]
            changed = True
    return changed


def _place(old: list[int], channels: int) -> int | None:
    """The last output with so many channels."""
    return len(old) - 1 - old[::-1].index(channels) if channels in old else None


def make_batch(toolbox: str, cfg: Config) -> dict:
    """Random images with one object each, as the toolbox's loader would collate them."""
    return dict(mmdet=_detection, mmseg=_segmentation, mmpretrain=_classification)[toolbox](cfg)


def _detection(cfg: Config) -> dict:
    from mmdet.testing import demo_mm_inputs, demo_track_inputs

    if 'Track' in str(cfg.model.get('data_preprocessor', {}).get('type')):
        return demo_track_inputs(1, 2, [0], [(3, SIDE, SIDE)], num_items=[1], with_mask=True)
    if 'ReID' in str(cfg.model.get('data_preprocessor', {}).get('type')):
        from mmdet.structures import ReIDDataSample

        sample = [ReIDDataSample().set_gt_label(i) for i in range(BATCH)]
        return dict(inputs=list(_images()), data_samples=sample)
    batch = demo_mm_inputs(
        BATCH,
        (3, SIDE, SIDE),
        num_items=[2] * BATCH,
        num_classes=2,
        with_mask=True,
        with_semantic=True,
        use_box_type=True,
        sem_seg_output_strides=8 if 'semantic_head' in cfg.model.get('roi_head', {}) else 1,
    )
    boxes = torch.tensor([[10.0, 20, 90, 100], [40, 8, 120, 60]])
    for sample in batch['data_samples']:
        sample.gt_instances.labels.zero_()
        sample.gt_instances.bboxes.tensor = boxes.clone()
        masks = np.zeros((2, SIDE, SIDE), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        sample.gt_instances.masks.masks = masks
        sample.set_metainfo(dict(text='cat . dog .', custom_entities=True, scale_factor=(1.0, 1.0)))
        if 'rpn_head' not in cfg.model:
            sample.proposals = sample.gt_instances.new(
                bboxes=boxes.clone(), scores=torch.ones(2), labels=torch.zeros(2).long()
            )
    return batch


def _segmentation(cfg: Config) -> dict:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(BATCH):
        meta = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), padding_size=[0] * 4)
        sample = SegDataSample(metainfo=dict(meta, flip=False, img_path='none.png'))
        label = torch.zeros(1, SIDE, SIDE, dtype=torch.long)
        label[:, 30:80, 20:90] = 1
        sample.gt_sem_seg = PixelData(data=label)
        sample.gt_edge_map = PixelData(data=label)
        samples.append(sample)
    return dict(inputs=list(_images()), data_samples=samples)


def _classification(cfg: Config) -> dict:
    for node in _dicts(cfg.train_pipeline):
        if 'hue' in node:
            node['hue'] = 0.0  # which mmcv 2.1 cannot shift with numpy 2
    pipeline = Compose([step for step in cfg.train_pipeline if 'Load' not in step['type']])
    samples = []
    for i, image in enumerate(_images()):
        array = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        sizes = dict(img_shape=array.shape[:2], ori_shape=array.shape[:2])
        label = [i] if _is_multi_label(cfg) else i
        samples.append(pipeline(dict(img=array, gt_label=label, img_path='none.png', **sizes)))
    collate = cfg.train_dataloader.get('collate_fn', {}).get('type')
    return (default_collate if collate == 'default_collate' else pseudo_collate)(samples)


def _is_multi_label(cfg: Config) -> bool:
    return 'MultiLabel' in str(cfg.model.get('head', {}).get('type')) or 'CSRA' in str(cfg.model)


def _images() -> torch.Tensor:
    return torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8)


def _is_pretraining(cfg: Config) -> bool:
    return 'SelfSup' in str(cfg.model.get('data_preprocessor', cfg.get('data_preprocessor')))


def _dicts(node) -> Iterator[dict]:
    if isinstance(node, dict):
        yield node
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for child in list(node):
        yield from _dicts(child)


def measure(limit: int, toolboxes: list[str], only: list[str]) -> None:
    """Run what has no row yet, each in a process of its own, and append the rows."""
    torch.set_num_threads(1)
    os.environ['HF_HUB_OFFLINE'] = '1'
    done = {(row['toolbox'], row['algorithm']) for row in read_rows()}
    context = multiprocessing.get_context('fork')  # which has imported the toolboxes
    for toolbox in toolboxes:
        import_module(f'{toolbox}.models'), import_module(f'{toolbox}.datasets')
        for algorithm, config in algorithms(toolbox):
            if (toolbox, algorithm) in done or (only and algorithm not in only):
                continue
            start = time.perf_counter()
            for side in SIDES:
                found = _run_apart(context, limit, toolbox, config, side)
                if found[0] in (PASSES, FAILS):
                    break
            append_row(dict(zip(FIELDS, (toolbox, algorithm, config.name, *found), strict=True)))
            print(f'{time.perf_counter() - start:4.0f} s {toolbox} {algorithm} {found}', flush=True)


def _run_apart(context, limit: int, *task) -> tuple[str, str]:
    """Run one config in a process of its own, which may die."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, limit, *task))
    process.start()
    sender.close()
    found = FAILS, f'not done after {limit} s'
    if receiver.poll(10 * limit):  # the machine may be busy
        try:
            found = receiver.recv()
        except EOFError:
            process.join()
            if process.exitcode != -signal.SIGXCPU:
                found = FAILS, f'the process died by signal {-process.exitcode}'
    process.kill()
    process.join()
    return found


def _child(sender, limit: int, toolbox: str, config: Path, side: int) -> None:
    global SIDE
    SIDE = side
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    sender.send(run(toolbox, config))


def read_rows() -> list[dict[str, str]]:
    """Read the results."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def append_row(row: dict[str, str]) -> None:
    """Append one result."""
    new = not RESULTS.exists()
    with RESULTS.open('a', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator='\n')
        if new:
            writer.writeheader()
        writer.writerow(row)


def make_table(rows: list[dict[str, str]]) -> str:
    """The page's table: one row for the algorithms that pass, and one for each that does not."""
    lines = ['| toolbox | algorithm | result | reason |', '| --- | --- | --- | --- |']
    for toolbox in TOOLBOXES:
        mine = [row for row in rows if row['toolbox'] == toolbox]
        order = (PASSES, FAILS, OWN_FAILS, OTHER_KIND)
        mine.sort(key=lambda row: (order.index(row['result']), row['reason']))
        for (result, reason), group in groupby(mine, lambda row: (row['result'], row['reason'])):
            names = [row['algorithm'] for row in group]
            count = f'{len(names)} of {len(mine)}: ' if result == PASSES else ''
            reason = reason.replace('|', '\\|')
            lines.append(f'| {toolbox} | {count}{", ".join(names)} | {result} | {reason} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--check', action='store_true', help='run nothing; fail on a difference')
    parser.add_argument('--limit', type=positive, default=120, help='seconds of CPU time for a row')
    parser.add_argument('--toolboxes', nargs='*', choices=TOOLBOXES, default=TOOLBOXES)
    parser.add_argument('--only', nargs='*', default=(), metavar='ALGORITHM', help='run only these')
    args = parser.parse_args()
    if not args.check:
        measure(args.limit, args.toolboxes, args.only)
    table = make_table(read_rows())
    keep_table(PAGE, BEGIN, END, table, args.check, 'benchmarks/algorithms.py')


if __name__ == '__main__':
    main()
