# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""DMFormer's speed before and after a change: two revisions of this repository in turns.

Each revision runs in a process of its own, on one thread; the processes are asked in turns, so that
both meet the same machine. Prints the ratio of their CPU times, now / before, for each case: the
median of the pairs, the smallest and the largest.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = Path(__file__).stem
WARM_UP = 5  # steps: a small network's first ones cost half as much again
CASES = ('inference folded', 'inference', 'training')


def prepare(case: str, arch: str, side: int) -> Callable[[], object]:
    """Build what a case repeats; here, so that only a worker imports the package."""
    import torch

    from mmdmformer import DMFormer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DMFormer(arch)
    x = torch.rand(1 if case != 'training' else 4, 3, side, side)
    if case == 'training':
        return lambda: sum(out.sum() for out in model(x)).backward()
    model.eval()
    if case == 'inference folded':
        model.switch_to_deploy()
    return torch.no_grad()(lambda: model(x))


def work(arch: str, side: int) -> None:
    """Answer each case that is named on stdin by the CPU seconds that it took."""
    steps = {case: prepare(case, arch, side) for case in CASES}
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    print('ready', flush=True)
    for line in sys.stdin:
        start = time.process_time()
        steps[line.strip()]()
        print(time.process_time() - start, flush=True)


class Worker:
    """The process of one revision, whose checkout is ``root``."""

    def __init__(self, root: Path, arch: str, side: int) -> None:
        paths = os.pathsep.join(map(str, (root, Path(__file__).parent)))
        self.process = subprocess.Popen(
            [sys.executable, '-c', f'import {NAME}; {NAME}.work({arch!r}, {side})'],
            cwd=root,  # which Python looks through before PYTHONPATH
            env={**os.environ, 'PYTHONPATH': paths, 'OMP_NUM_THREADS': '1'},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait(self) -> None:
        """Wait until it is ready."""
        for line in self.process.stdout:
            if line == 'ready\n':
                return
        raise SystemExit('error: a revision has no DMFormer that this program can run.')

    def measure(self, case: str) -> float:
        """CPU seconds of one step."""
        print(case, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def compare(before: Worker, now: Worker, case: str, repetitions: int) -> list[float]:
    """The ratios of CPU times now / before, one for each pair, in rising order."""
    pairs = [(now.measure(case), before.measure(case)) for _ in range(repetitions)]
    return sorted(new / old for new, old in pairs)


def main() -> None:
    from mmdmformer.engine.runtime import positive

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('revision', nargs='?', default='HEAD', help='what to compare with')
    parser.add_argument('--arch', default='s', help='size of the network')
    parser.add_argument('--side', type=positive, default=224, help='side of the images in pixels')
    parser.add_argument('--repetitions', type=positive, default=15, help='pairs of measurements')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        git = ('git', '-C', str(ROOT), 'worktree')
        tree = Path(folder) / 'before'
        add = [*git, 'add', '--quiet', '--detach', str(tree), args.revision]
        if subprocess.run(add).returncode:
            raise SystemExit(f'error: {args.revision!r} is no revision: give one that git knows.')
        workers = [Worker(root, args.arch, args.side) for root in (tree, ROOT)]
        try:
            for worker in workers:
                worker.wait()
            print(f'DMFormer-{args.arch}, {args.side} pixels, now / {args.revision}')
            for case in CASES:
                ratios = compare(*workers, case, args.repetitions)
                spread = f'{ratios[0]:.3f} to {ratios[-1]:.3f}'
                print(f'{case:17}{statistics.median(ratios):6.3f}  ({spread})', flush=True)
        finally:
            for worker in workers:
                worker.process.stdin.close()
                worker.process.wait()
            subprocess.run([*git, 'remove', '--force', str(tree)], check=True)


if __name__ == '__main__':
    main()
