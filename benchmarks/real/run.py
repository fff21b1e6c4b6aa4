# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Train and test on the public data sets, one run after the other, and write down what comes out.

A run is a config and a seed. What results.csv holds is not run again; a run that was interrupted
goes on from its last checkpoint. The test split is touched once, by the last checkpoint. Without
--stage, the recipes of DMFormer run; with it, the comparison with other networks of its size.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from mmengine.config import Config
from torch import Tensor

from comparison import (
    FACTORS,
    ROOT,
    STAGES,
    add_rate,
    chosen_factor,
    make_config,
    read_rates,
    split_name,
)
from mmdmformer.analysis.benchmark import describe_machine
from mmdmformer.analysis.multiply_adds import count_multiply_adds
from mmdmformer.checkpoints import find_weights, read_checkpoint
from mmdmformer.checkpoints.safetensors_file import to_bytes
from mmdmformer.engine.model import build_model
from mmdmformer.engine.runtime import UsageError, one_sentence_errors, positive
from results import (
    FOLDER,
    PAGE,
    RESULTS,
    SETS,
    Row,
    add_results,
    image_size,
    make_page,
    read_results,
)

WORK = Path('work_dirs/real')  # below the repository
LICENSE = 'Apache-2.0'  # of the weights; the data have their own
# In the order in which they are run: detectors and segmentors start from the first.
CONFIGS = (
    'cifar10/dmformer-nano_cifar10',
    'bccd/retinanet_dmformer-nano_fpn_bccd',
    'camvid/dmformer-nano_sem-fpn_camvid',
    'nuclei/mask-rcnn_dmformer-nano_fpn_nuclei',
    'cifar10/dmformer-nano_36e_cifar10',
    'bccd/retinanet_dmformer-nano-scratch_fpn_bccd',
    'camvid/dmformer-nano-scratch_sem-fpn_camvid',
    'nuclei/mask-rcnn_dmformer-nano-scratch_fpn_nuclei',
)
# What is shipped of the first seed, as float16, and where to: of each set the first, as the others
# start from the classifier. It is what is tested, too.
SHIPPED = {
    config: 'mmdmformer/weights' if config.startswith('cifar10') else 'weights'
    for config in CONFIGS[:4]
}


def missing_runs(results: Iterable[Row], runs: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """List the configs and seeds that the results lack."""
    done = {(row.config, row.seed) for row in results}
    return [run for run in runs if run not in done]


def measure(config: str, seed: int) -> list[Row]:
    """Train and test, and keep the scalars beside the results.

    Args:
        config (str): Below ``configs``, without suffix.
        seed (int): Of weights, order and augmentation.

    Returns:
        list[Row]: One for each split and metric.

    Raises:
        UsageError: If a program fails, whose own message stands above.
    """
    return collect(config, seed, train(config, seed, chosen_factor(config)))


def train(config: str, seed: int, factor: float) -> Path:
    """Train, or go on with a run that was interrupted.

    Args:
        config (str): Below ``configs``, without suffix.
        seed (int): Of weights, order and augmentation.
        factor (float): Of the recipe's learning rate.

    Returns:
        Path: The run's folder, below the repository.

    Raises:
        UsageError: If the program fails, whose own message stands above.
    """
    rate = '' if factor == 1 else f'_lr{factor:g}'
    work = WORK / f'{Path(config).name}{rate}_seed{seed}'
    options = ['--resume', '--cfg-options', f'randomness.seed={seed}']
    _call('train', config_file(config, factor), '--work-dir', work, *options)
    return work


def config_file(config: str, factor: float) -> Path:
    """The file of a config; one of the comparison is written.

    Args:
        config (str): Below ``configs``, without suffix.
        factor (float): Of the recipe's learning rate, for one of the comparison.

    Returns:
        Path: The file.
    """
    path = ROOT / f'configs/{config}.py'
    if not path.is_file():
        path = ROOT / WORK / f'configs/{config}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        make_config(config, factor, ROOT / WORK).dump(path)
    return path


def try_rates(config: str) -> None:
    """Train with each of three learning rates, and write down what they reach on validation.

    The run with the best of them is the first seed's.

    Args:
        config (str): Of the comparison, below ``configs``, without suffix.

    Raises:
        UsageError: If a training fails, whose own message stands above.
    """
    metric = next(iter(SETS[split_name(config)[0]].metrics.values()))
    for factor in FACTORS:
        if factor not in read_rates().get(config, {}):
            _, validated = read_scalars(train(config, 0, factor))
            add_rate(config, factor, validated[metric])


def read_scalars(work: Path) -> tuple[list[dict], dict]:
    """Read all that a run logged, and its last validation.

    Args:
        work (Path): The run's folder, absolute or below the repository.

    Returns:
        tuple[list[dict], dict]: Both.
    """
    files = sorted((ROOT / work).glob('*/vis_data/scalars.json'))
    scalars = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return scalars, [row for row in scalars if 'loss' not in row][-1]


def collect(config: str, seed: int, work: Path) -> list[Row]:
    """Test a run that is complete, and keep the scalars beside the results.

    Args:
        config (str): Below ``configs``, without suffix.
        seed (int): Of weights, order and augmentation.
        work (Path): The run's folder, absolute or below the repository.

    Returns:
        list[Row]: One for each split and metric.

    Raises:
        UsageError: If the test fails, or a metric is missing.
    """
    trained = read_checkpoint((ROOT / work / 'last_checkpoint').read_text().strip())
    path = config_file(config, chosen_factor(config))
    meta = dict(
        dataset_meta=trained['meta']['dataset_meta'], config=path.relative_to(ROOT).as_posix()
    )
    content = dict(state_dict=_halved(find_weights(trained)), meta=meta)
    shipped = ROOT / work / f'{Path(config).name}.safetensors'
    shipped.write_bytes(to_bytes(content))
    _call('test', path, shipped, '--work-dir', work / 'test')
    scalars, validated = read_scalars(work)
    newest = sorted((ROOT / work / 'test').glob('*/*.json'))[-1]
    tested = json.loads(newest.read_text().splitlines()[-1])
    rows = make_rows(config, seed, scalars, dict(val=validated, test=tested))
    meta.update(license=LICENSE, results=[asdict(row) for row in rows])
    shipped.write_bytes(to_bytes(content))
    if seed == 0 and config in SHIPPED:
        (ROOT / SHIPPED[config]).mkdir(exist_ok=True)
        shutil.copy2(shipped, ROOT / SHIPPED[config] / shipped.name)
    kept = FOLDER / f'logs/{Path(config).name}_seed{seed}.jsonl'
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(''.join(f'{json.dumps(row)}\n' for row in scalars), encoding='utf-8')
    return rows


def collect_folder(configs: Sequence[str], work: Path) -> list[Row]:
    """Collect a run of tools/train.py.

    Args:
        configs (Sequence[str]): The one that was trained, below ``configs``, without suffix.
        work (Path): The run's folder, absolute.

    Returns:
        list[Row]: One for each split and metric.

    Raises:
        UsageError: If it is no run of one config, or its results are there already.
    """
    dumped = [work / f'{Path(config).name}.py' for config in configs]
    if len(configs) != 1 or not dumped[0].is_file():
        raise UsageError(
            f'--collect {work} needs one CONFIG, which tools/train.py has trained into that folder.'
        )
    seed = Config.fromfile(dumped[0]).randomness.get('seed') or 0
    if not missing_runs(read_results(), [(configs[0], seed)]):
        raise UsageError(f'{RESULTS.name} holds {configs[0]} with seed {seed}: remove it first.')
    return collect(configs[0], seed, work)


def _halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}


def make_rows(
    config: str, seed: int, scalars: Sequence[dict], measured: Mapping[str, Mapping[str, float]]
) -> list[Row]:
    """Make a run's rows.

    Args:
        config (str): Below ``configs``, without suffix.
        seed (int): Of weights, order and augmentation.
        scalars (Sequence[dict]): What mmengine logged.
        measured (Mapping): For each split the values by their names in the logs.

    Returns:
        list[Row]: One for each split and metric.

    Raises:
        UsageError: If a value is missing.
    """
    name, network = split_name(config)
    group = SETS[name]
    cfg = make_config(config, chosen_factor(config), ROOT / WORK)
    model, image = build_model(cfg), image_size(cfg, name)
    common = dict(
        set=name,
        network=network,
        config=config,
        seed=seed,
        parameters=sum(p.numel() for p in model.parameters()),
        multiply_adds=image and count_multiply_adds(model, image),
        minutes=round(training_minutes(scalars), 1),
        machine=describe_machine('cpu', False),
    )
    rows = []
    for split, values in measured.items():
        for metric, key in group.metrics.items():
            if key not in values:
                raise UsageError(f'{config} measured no {key} on the {split} split: see its log.')
            value = round(values[key] * group.scale, 2)
            rows.append(Row(split=split, metric=metric, value=value, **common))
    return rows


def training_minutes(scalars: Sequence[dict]) -> float:
    """Add up the time of a run's iterations.

    Args:
        scalars (Sequence[dict]): What mmengine logged; ``time`` is the mean of the last iterations.

    Returns:
        float: The minutes, without validation and starts.

    Examples:
        >>> training_minutes([dict(step=10, loss=1.0, time=3), dict(step=20, loss=1.0, time=9)])
        2.0
    """
    # A run that went on from a checkpoint has logged some steps twice.
    times = {row['step']: row['time'] for row in scalars if 'loss' in row}
    steps = sorted(times)
    return sum((b - a) * times[b] for a, b in pairwise([0, *steps])) / 60


def _call(tool: str, *args: object) -> None:
    command = [sys.executable, f'tools/{tool}.py', *map(str, args)]
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise UsageError(f'{" ".join(command[1:])} failed: see above.')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'configs', nargs='*', metavar='CONFIG', help=f'some of {", ".join(CONFIGS)} (default: all)'
    )
    parser.add_argument('--seeds', type=positive, default=1, help='how many, from 0 (default: 1)')
    parser.add_argument(
        '--stage',
        choices=STAGES,
        help='of the comparison: a, other networks and two mixers on all sets; b, the ablations '
        'and the other mixers on CIFAR-10',
    )
    parser.add_argument(
        '--rates',
        action='store_true',
        help='train CONFIGs of the comparison with three learning rates; the one that does best on '
        'validation is theirs from then on',
    )
    parser.add_argument(
        '--collect',
        type=Path,
        metavar='FOLDER',
        help='test the one CONFIG that tools/train.py has trained into this folder, write it down '
        'and keep its weights',
    )
    parser.add_argument('--list', action='store_true', help='list what is missing, and run nothing')
    parser.add_argument(
        '--check', action='store_true', help='fail if the page is not that of the results'
    )
    args = parser.parse_args()
    compared = {config for runs in STAGES.values() for config, _ in runs}
    for config in args.configs:
        if config not in compared and not (ROOT / f'configs/{config}.py').is_file():
            parser.error(f'there is no config {config}: --list names those of a --stage.')
        if args.rates and (ROOT / f'configs/{config}.py').is_file():
            parser.error(f'--rates {config}: the rate of this config stands in its file.')
    if args.rates and not args.configs:
        parser.error('--rates needs the CONFIGs to try them for.')
    return args


def chosen_runs(args: argparse.Namespace) -> list[tuple[str, int]]:
    """The configs and seeds that a command line asks for; all configs of a seed come first."""
    if args.collect:
        return []
    if args.stage:
        return STAGES[args.stage]
    return [(c, seed) for seed in range(args.seeds) for c in args.configs or CONFIGS]


def main() -> None:
    args = parse_args()
    if args.collect:
        with one_sentence_errors():
            add_results(collect_folder(args.configs, args.collect.absolute()))
    for config in args.configs if args.rates else []:
        with one_sentence_errors():
            try_rates(config)
    for config, seed in missing_runs(read_results(), chosen_runs(args)):
        if args.check:
            break
        if args.list:
            print(config, seed)
            continue
        with one_sentence_errors():
            add_results(measure(config, seed))
        PAGE.write_text(make_page(read_results()), encoding='utf-8')
    made = make_page(read_results())
    if args.check and made != PAGE.read_text(encoding='utf-8'):
        sys.exit(f'error: {PAGE.name} is not that of {RESULTS.name}: run benchmarks/real/run.py.')
    PAGE.write_text(made, encoding='utf-8')


if __name__ == '__main__':
    main()
