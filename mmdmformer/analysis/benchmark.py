# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Comparison of time and memory of backbones, measured in one run.

The repetitions of all networks are interleaved, so that a machine whose speed drifts treats them
alike; what is worth quoting are medians and their ratios.
"""

import csv
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from ..checkpoints import input_channels
from ..ops import dwconv_backend

BACKBONES: dict[str, dict] = {
    'DMFormer-S': dict(type='DMFormer', arch='small'),
    'DMFormer-S reference': dict(type='DMFormer', arch='small'),
    'DMFormer-S compiled': dict(type='DMFormer', arch='small'),
    'DMFormer-S bf16': dict(type='DMFormer', arch='small'),
    'DMFormer-S checkpointed': dict(type='DMFormer', arch='small', with_cp=True),
    'DMFormer-S folded': dict(type='DMFormer', arch='small', deploy=True),
    'DMFormer-L': dict(type='DMFormer', arch='large'),
    'DMFormer-L compiled': dict(type='DMFormer', arch='large'),
    'DMFormer-L folded': dict(type='DMFormer', arch='large', deploy=True),
    'Swin-T': dict(type='mmpretrain.SwinTransformer', arch='tiny', pad_small_map=True),
    'Swin-S': dict(type='mmpretrain.SwinTransformer', arch='small', pad_small_map=True),
    'ConvNeXt-T': dict(type='mmpretrain.ConvNeXt', arch='tiny'),
    'ConvNeXt-S': dict(type='mmpretrain.ConvNeXt', arch='small'),
    'VAN-B2': dict(type='mmpretrain.VAN', arch='base'),
    'PoolFormer-S36': dict(type='mmpretrain.PoolFormer', arch='s36'),
    'ResNet-50': dict(type='mmpretrain.ResNet', depth=50),
}
# What a name says; COMPILED and BF16 may follow any other:
FOLDED = ' folded'  # the norms are folded; such a network cannot train
COMPILED = ' compiled'  # by torch.compile, which needs a C++ compiler for CPUs
BF16 = ' bf16'  # under autocast to bfloat16
REFERENCE = ' reference'  # torch's own layers alone, without anything of mmdmformer.ops


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        mode (str): ``'inference'``, or ``'training'`` for a forward and a
            backward pass.
        batch (int): Images.
        height (int): Their height in pixels.
        width (int): Their width in pixels.
    """

    mode: str
    batch: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Pixels of the whole batch."""
        return self.batch * self.height * self.width

    @classmethod
    def parse(cls, text: str) -> 'Case':
        """Read a case as it is written on a command line.

        Args:
            text (str): Such as ``'inference:4x224x224'``.

        Returns:
            Case: The case.

        Raises:
            ValueError: If the text is no case.

        Examples:
            >>> Case.parse('training:8x224x320')
            Case(mode='training', batch=8, height=224, width=320)
        """
        mode, _, sizes = text.partition(':')
        try:
            batch, height, width = (int(size) for size in sizes.split('x'))
        except ValueError:
            batch = height = width = 0
        if mode not in ('inference', 'training') or min(batch, height, width) < 1:
            raise ValueError(
                f'{text!r} is no case: write inference or training, the batch size, height and '
                'width in pixels, such as inference:4x224x224.'
            )
        return cls(mode, batch, height, width)

    def __str__(self) -> str:
        return f'{self.mode}:{self.batch}x{self.height}x{self.width}'


@dataclass
class Measurement:
    """Times of a network in a case.

    Attributes:
        case (Case): The case.
        name (str): The network.
        seconds (list[float]): One for each repetition.
        peak_bytes (int): Memory that a pass allocated at most beside the
            weights.
    """

    case: Case
    name: str
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        """Median time in seconds."""
        return statistics.median(self.seconds)

    @property
    def images_per_second(self) -> float:
        """Images a second, at the median."""
        return self.case.batch / self.median


def measure(
    case: Case,
    names: Iterable[str],
    device: str = 'cpu',
    repetitions: int = 7,
    channels_last: bool = False,
    on_step: Callable[[], object] = lambda: None,
) -> list[Measurement]:
    """Measure networks in turn.

    Args:
        case (Case): What to measure.
        names (Iterable[str]): Keys of ``BACKBONES``, or configs, which end in
            .py. Folded ones are left out of training.
        device (str): Such as ``'cpu'`` or ``'cuda'``. Defaults to 'cpu'.
        repetitions (int): How often each is measured. Defaults to 7.
        channels_last (bool): Whether weights and images are in that memory
            format. Defaults to False.
        on_step (Callable): Called after each pass of a network.

    Returns:
        list[Measurement]: One for each network.

    Raises:
        KeyError: If a name is unknown.
    """
    names = _measurable(case, names)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    passes, results = [], [Measurement(case, name) for name in names]
    for result in results:
        model = MODELS.build(_settings(result.name)).to(device, memory_format=layout)
        model.train(case.mode == 'training')
        shape = (case.batch, input_channels(model), case.height, case.width)
        images = torch.rand(shape, device=device).to(memory_format=layout)
        if COMPILED in result.name:
            model.compile()
        passes.append(_in_variant(result.name, _make_pass(model, images, case.mode), device))
        passes[-1]()  # compiles, and fills caches
        result.peak_bytes = measure_peak_bytes(passes[-1], device)
        on_step()
    times = interleave(passes, repetitions, device, on_step)
    for result, seconds in zip(results, times, strict=True):
        result.seconds = seconds
    return results


def interleave(
    runs: Sequence[Callable[[], object]],
    repetitions: int,
    device: str = 'cpu',
    on_step: Callable[[], object] = lambda: None,
) -> list[list[float]]:
    """Time functions in turn, again and again.

    Args:
        runs (Sequence[Callable]): The functions. Each runs once more before,
            to warm up.
        repetitions (int): How often each is timed.
        device (str): Where they work. Defaults to 'cpu'.
        on_step (Callable): Called after each timing.

    Returns:
        list[list[float]]: Seconds of every repetition, for each function.

    Examples:
        >>> order = []
        >>> times = interleave([lambda: order.append('a'), lambda: order.append('b')], 2)
        >>> order, [len(seconds) for seconds in times]
        (['a', 'b', 'a', 'b', 'a', 'b'], [2, 2])
    """
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repetitions):
        for run, seconds in zip(runs, times, strict=True):
            seconds.append(time_run(run, device))
            on_step()
    return times


def _settings(name: str) -> dict:
    if not name.endswith('.py'):
        return BACKBONES[_without_variants(name)]
    backbone = Config.fromfile(name).model.backbone.to_dict()
    return {key: value for key, value in backbone.items() if key != 'init_cfg'}


def is_known(name: str) -> bool:
    """Say whether a name is a key of ``BACKBONES``, or one with variants after it."""
    return _without_variants(name) in BACKBONES


def _without_variants(name: str) -> str:
    return name.replace(COMPILED, '').replace(BF16, '')


def num_steps(case: Case, names: Iterable[str], repetitions: int) -> int:
    """How often :func:`measure` calls ``on_step``."""
    return len(_measurable(case, names)) * (repetitions + 1)


def _measurable(case: Case, names: Iterable[str]) -> list[str]:
    return [n for n in names if case.mode == 'inference' or FOLDED not in n]


def _make_pass(model: nn.Module, images: Tensor, mode: str) -> Callable[[], object]:
    def infer() -> None:
        with torch.inference_mode():
            model(images)

    def train() -> None:
        model.zero_grad()
        model(images)[-1].mean().backward()

    return train if mode == 'training' else infer


def _in_variant(name: str, run: Callable[[], object], device: str) -> Callable[[], object]:
    backend = 'reference' if REFERENCE in name else 'auto'
    kind = torch.device(device).type

    def run_in_variant() -> None:
        with dwconv_backend(backend), torch.autocast(kind, torch.bfloat16, BF16 in name):
            run()

    return run_in_variant


def time_run(run: Callable[[], object], device: str) -> float:
    """Time a function once.

    Args:
        run (Callable): The function.
        device (str): Where it works.

    Returns:
        float: Seconds until its work is done.
    """
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize(device)


def measure_peak_bytes(run: Callable[[], object], device: str) -> int:
    """Measure how much memory a function allocates at most beside what was there.

    Args:
        run (Callable): The function.
        device (str): Where it works.

    Returns:
        int: Bytes.
    """
    if device.startswith('cuda'):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == '[memory]']
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def describe_machine(device: str, channels_last: bool, dtype: str = 'float32') -> str:
    """Say in one line what a measurement was made on."""
    name = torch.cuda.get_device_name(device) if device.startswith('cuda') else _cpu_name()
    layout = 'channels last' if channels_last else 'channels first'
    return (
        f'{name}, {layout}, {dtype}, torch {torch.__version__}, Python {platform.python_version()}'
    )


def _cpu_name() -> str:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    model = next((li.split(':')[1].strip() for li in lines if li.startswith('model name')), 'CPU')
    return f'{model}, {torch.get_num_threads()} threads'


def make_table(results: list[Measurement], baseline: str) -> str:
    """Make a Markdown table of one case.

    Args:
        results (list[Measurement]): The measurements of one case.
        baseline (str): The network to which the others' times are compared;
            the first one if it is not there.

    Returns:
        str: The table.
    """
    reference = next((r for r in results if r.name == baseline), results[0])
    lines = [
        f'| {results[0].case} | median ms | min to max ms | images/s | time / {reference.name} '
        '| peak MB |',
        '| --- | ---: | ---: | ---: | ---: | ---: |',
    ]
    for r in results:
        low, high = min(r.seconds) * 1e3, max(r.seconds) * 1e3
        lines.append(
            f'| {r.name} | {r.median * 1e3:.1f} | {low:.1f} to {high:.1f} '
            f'| {r.images_per_second:.2f} | {r.median / reference.median:.2f} '
            f'| {r.peak_bytes / 1e6:.0f} |'
        )
    return '\n'.join(lines)


def write_csv(results: Iterable[Measurement], path: str | Path) -> None:
    """Write a line for each network and case, with every repetition.

    Args:
        results (Iterable[Measurement]): The measurements.
        path (str | Path): The file.
    """
    results = list(results)
    repetitions = max(len(r.seconds) for r in results)
    header = ['mode', 'batch', 'height', 'width', 'name', 'median_s', 'peak_bytes']
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(header + [f'seconds_{i + 1}' for i in range(repetitions)])
        for r in results:
            c = r.case
            times = [f'{t:.6f}' for t in (r.median, *r.seconds)]
            writer.writerow(
                [c.mode, c.batch, c.height, c.width, r.name, times[0], r.peak_bytes, *times[1:]]
            )


def plot_growth(results: list[Measurement], path: str | Path, title: str) -> None:
    """Draw time and memory over the number of pixels, a line for each network.

    Args:
        results (list[Measurement]): The measurements.
        path (str | Path): The file to write.
        title (str): What they were made on.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout='constrained')
    panels = figure.subplots(1, 2)
    for name in dict.fromkeys(r.name for r in results):
        rows = sorted((r for r in results if r.name == name), key=lambda r: r.case.pixels)
        pixels = [r.case.pixels / 1e6 for r in rows]
        panels[0].plot(pixels, [r.median * 1e3 for r in rows], 'o-', label=name)
        panels[1].plot(pixels, [r.peak_bytes / 1e6 for r in rows], 'o-', label=name)
    for axes, quantity in zip(panels, ('ms', 'peak MB'), strict=True):
        axes.set(xlabel='million pixels in the batch', ylabel=quantity, xscale='log', yscale='log')
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=8)
    figure.savefig(path, dpi=120)


def plot(results: list[Measurement], path: str | Path, title: str) -> None:
    """Draw medians as bars, with the range of the repetitions, one panel for each case.

    Args:
        results (list[Measurement]): The measurements.
        path (str | Path): The file to write.
        title (str): What they were made on.
    """
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(r.case for r in results))
    figure = Figure(figsize=(max(4.2 * len(cases), 8), 4), layout='constrained')
    for axes, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        rows = [r for r in results if r.case == case][::-1]
        medians = [r.median * 1e3 for r in rows]
        spread = [
            [m - min(r.seconds) * 1e3 for m, r in zip(medians, rows, strict=True)],
            [max(r.seconds) * 1e3 - m for m, r in zip(medians, rows, strict=True)],
        ]
        colors = ['C1' if r.name.startswith('DMFormer') else 'C0' for r in rows]
        axes.barh([r.name for r in rows], medians, xerr=spread, color=colors)
        axes.set_title(str(case), fontsize=10)
        axes.set_xlabel('ms')
    figure.suptitle(title, fontsize=8)
    figure.savefig(path, dpi=120)
