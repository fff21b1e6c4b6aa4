# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""What int8 costs and saves: the trained networks in ONNX Runtime and OpenVINO.

Each network is exported in float32 and in int8, calibrated on 64 pictures of its training set, and
both are tested on the test split by the toolbox's own metrics, and timed in turn; the same with
everything in int8 that the runtime's own tool quantizes unless told otherwise. A row is written as
soon as it is known, and what int8.csv holds is not measured again. The table of docs/deployment.md
is made of it. Run it where both runtimes are: `make runtimes` makes such an
environment, .venv-runtimes.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import onnx
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from onnxruntime.quantization import QuantType, quantize_static

import mmdmformer  # noqa: F401  (registers, and serves mmcv.ops)
from comparison import ROOT
from mmdmformer.analysis.benchmark import describe_machine
from mmdmformer.deploy import int8, networks, onnx_export, openvino_export, verify
from mmdmformer.deploy.formats import FORMATS
from mmdmformer.engine.model import toolbox_of
from results import FOLDER, SETS, add_results, image_size

sys.path.append(str(ROOT / 'benchmarks'))
from markdown_pages import keep_table  # noqa: E402

RESULTS = FOLDER / 'int8.csv'
PAGE = ROOT / 'docs/deployment.md'
BEGIN, END = '<!-- int8 table -->', '<!-- end of int8 table -->'
CHECKPOINTS = {  # of the configs, below ``configs``, that can be exported: where they lie
    'cifar10/dmformer-nano_cifar10': 'mmdmformer/weights',
    'bccd/retinanet_dmformer-nano_fpn_bccd': 'weights',
    'camvid/dmformer-nano_sem-fpn_camvid': 'weights',
}
CALIBRATION = 64  # pictures, as tools/deploy/export.py takes
REPETITIONS = 15
TYPES = dict(str=str, int=int, float=float)


@dataclass(frozen=True)
class Row:
    """What was measured of a network in a runtime.

    Attributes:
        config (str): Below ``configs``, without suffix.
        runtime (str): What ran it.
        rule (str): What is in int8, one of :data:`RULES`.
        metric (str): One of its set's, on the test split, in percent.
        float32 (float): Of the network in float32.
        int8 (float): Of the network in int8.
        mb_float32 (float): Size of its files.
        mb_int8 (float): The same in int8.
        time_ratio (float): CPU time in int8, as a share of that in float32.
        machine (str): What it was timed on.
    """

    config: str
    runtime: str
    rule: str
    metric: str
    float32: float
    int8: float
    mb_float32: float
    mb_int8: float
    time_ratio: float
    machine: str


def measure(config: str, suffix: str, rule: str) -> list[Row]:
    """Export a trained network twice, test and time both.

    Args:
        config (str): Below ``configs``, without suffix.
        suffix (str): Of the format.
        rule (str): What is in int8.

    Returns:
        list[Row]: One for each metric.
    """
    cfg = Config.fromfile(ROOT / f'configs/{config}.py')
    checkpoint = str(ROOT / CHECKPOINTS[config] / f'{Path(config).name}.safetensors')
    network, form = networks.build_network(cfg, checkpoint), FORMATS[suffix]
    pictures = verify.prepare_pictures(verify.pictures_of(cfg, 'train', CALIBRATION), cfg)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f'{name}{suffix}' for name in ('float32', 'int8')]
        form.export(network, files[0])
        RULES[rule](network, files[1], pictures)
        runs = [form.load(file, threads=1) for file in files]
        sizes = [sum(f.stat().st_size for f in form.files(file)) for file in files]
    tested = [evaluate(cfg, checkpoint, run) for run in runs]
    group = SETS[config.split('/')[0]]
    ratio = time_ratio(runs, image_size(cfg, config.split('/')[0]))
    return [
        Row(
            config,
            form.runtime,
            rule,
            metric,
            *(round(values[key] * group.scale, 2) for values in tested),
            *(round(size / 1e6, 2) for size in sizes),
            round(ratio, 2),
            machine(),
        )
        for metric, key in group.metrics.items()
    ]


def quantize_everything(network: networks.Network, file: Path, pictures: list) -> None:
    """Quantize what a tool does on its own; onnxruntime's with values that x86 is fast with."""
    model, feeds = onnx_export.build_onnx(network), int8.feeds(network, pictures)
    if file.suffix == '.onnx':
        reader = SimpleNamespace(get_next=partial(next, iter(feeds), None))
        quantize_static(model, file, reader, activation_type=QuantType.QUInt8)
        onnx_export.export(network, file, model=onnx.load(file))
    else:
        import nncf
        import openvino

        model = openvino.convert_model(io.BytesIO(model.SerializeToString()))
        model = nncf.quantize(model, nncf.Dataset(feeds), subset_size=len(feeds))
        openvino_export.export(network, file, model=model)


OURS = 'convolutions and linear layers'
RULES = {OURS: int8.quantize, 'all that the tool takes': quantize_everything}


def evaluate(cfg: Config, checkpoint: str, run: verify.Run) -> dict[str, float]:
    """Test an exported network as its config tests, by the toolbox's own metrics.

    Args:
        cfg (Config): Config of the model.
        checkpoint (str): Its checkpoint.
        run (Callable): The exported network, from images to outputs.

    Returns:
        dict[str, float]: The metrics by their names in logs.
    """
    scope = toolbox_of(cfg)
    settings = cfg.test_dataloader.copy()
    settings.update(num_workers=0, persistent_workers=False)
    if scope != 'mmpretrain':
        settings.update(batch_size=1)
    with DefaultScope.overwrite_default_scope(scope):
        init_default_scope(scope)
        kind, model = networks.load_model(cfg, checkpoint)
        loader, network = Runner.build_dataloader(settings), kind(model)
        evaluator = Evaluator(cfg.test_evaluator)
        evaluator.dataset_meta = loader.dataset.metainfo
        for data in loader:
            images = torch.stack(list(data['inputs'])).flip(1).float()
            outputs, samples = run(images), data['data_samples']
            if scope == 'mmseg':
                samples = model.postprocess_result(outputs[0], samples)
            for i, sample in enumerate(samples):
                if scope == 'mmpretrain':
                    scores = network.results(outputs)[0][i]
                    sample.set_pred_score(scores).set_pred_label(scores.argmax())
                elif scope == 'mmdet':
                    factors = torch.tensor(sample.scale_factor).repeat(2)
                    boxes, scores, labels, _ = outputs
                    sample.pred_instances = InstanceData(
                        bboxes=boxes / factors, scores=scores, labels=labels
                    )
            evaluator.process(samples, data)
        return evaluator.evaluate(len(loader.dataset))


def machine() -> str:
    """The CPU, and whether it has the instructions for int8."""
    vnni = 'vnni' in Path('/proc/cpuinfo').read_text()
    return f'{describe_machine("cpu", False)}, {"with" if vnni else "without"} VNNI'


def time_ratio(runs: Sequence[verify.Run], size: tuple[int, int]) -> float:
    """Time two networks in turn on one picture, by the CPU time, which other programs leave alone.

    Args:
        runs (Sequence[Callable]): Both.
        size (tuple[int, int]): Height and width in pixels.

    Returns:
        float: The second's median, as a share of the first's.
    """
    images, seconds = torch.rand(1, 3, *size) * 255, ([], [])
    for _ in range(REPETITIONS + 1):
        for run, each in zip(runs, seconds, strict=True):
            start = time.process_time()
            run(images)
            each.append(time.process_time() - start)
    before, after = (statistics.median(each[1:]) for each in seconds)  # the first warms up
    return after / before


def read_rows(path: Path = RESULTS) -> list[Row]:
    """Read what was measured; there is nothing if the file is not there."""
    if not path.exists():
        return []
    with path.open(newline='', encoding='utf-8') as file:
        return [
            Row(**{f.name: TYPES[f.type](row[f.name]) for f in fields(Row)})
            for row in csv.DictReader(file)
        ]


def make_table(rows: Sequence[Row]) -> str:
    """The page's table and what it was measured on."""
    lines = [
        '| network | runtime | metric, % | float32 | int8 | lost | MB | time '
        '| all that the tool takes |',
        '| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |',
    ]
    others = {(r.config, r.runtime, r.metric): r for r in rows if r.rule != OURS}
    for row in (row for row in rows if row.rule == OURS):
        other = others.get((row.config, row.runtime, row.metric))
        lines.append(
            f'| [{Path(row.config).name}](../configs/{row.config}.py) | {row.runtime} '
            f'| {row.metric} | {row.float32:.1f} | {row.int8:.1f} '
            f'| {round(row.float32 - row.int8, 1) + 0:.1f} '
            f'| {row.mb_float32:.1f} to {row.mb_int8:.1f} '
            f'| {row.time_ratio:.2f} '
            f'| {f"{other.int8:.1f}, time {other.time_ratio:.2f}" if other else "-"} |'
        )
    machines = '; '.join(dict.fromkeys(row.machine for row in rows))
    return '\n'.join([*lines, '', f'Timed on {machines}.'])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--check', action='store_true', help='run nothing; fail on a difference')
    args = parser.parse_args()
    os.chdir(ROOT)
    torch.set_num_threads(1)
    done = {(row.config, row.runtime, row.rule) for row in read_rows()}
    for rule, config, suffix in product(RULES, CHECKPOINTS, int8.FORMATS):
        if (config, FORMATS[suffix].runtime, rule) not in done and not args.check:
            add_results(measure(config, suffix, rule), RESULTS)
    table = make_table(read_rows())
    keep_table(PAGE, BEGIN, END, table, args.check, 'benchmarks/real/int8.py')


if __name__ == '__main__':
    main()
