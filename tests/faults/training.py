# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Faults that training meets: kills, damaged checkpoints, full disks, signals, bad numbers."""

from __future__ import annotations

import random
import re
import shutil
import time
from functools import partial
from pathlib import Path

import torch

from mmdmformer.engine.hooks.signals import EXIT_CODE

from . import Outcome, fault
from .mini_runs import TASKS, TOOLBOXES, MiniRun, end, make_data

# Where a run is killed, and at most how often it gets there between two checkpoints.
MOMENTS = {'step': 8, 'validation': 6, 'writing': 3, 'renaming': 3, 'pointing': 3, 'any time': 0}
_RUN_SECONDS = 4.0  # a run lasts about that long
KILLED = -9


def read(path: Path) -> dict:
    """The content of a checkpoint that this package wrote."""
    return torch.load(path, map_location='cpu', weights_only=False)


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two checkpoints of the same iteration: names of parts and tensors."""
    first, second = read(one), read(other)
    parts = [part for part in ('iter', 'epoch') if first['meta'][part] != second['meta'][part]]
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        if not _equal(first.get(part), second.get(part)):
            parts.append(part)
    return parts


def _equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one == other


def progress(path: Path) -> int:
    """The iteration of a checkpoint."""
    return read(path)['meta']['iter']


def complete_checkpoints(work_dir: Path) -> list[Path]:
    """The checkpoints of a run from which it can go on, the newest last."""
    paths = [p for p in work_dir.glob('*.pth') if not p.name.startswith('best')]
    return sorted(paths, key=progress)


def last_checkpoint(work_dir: Path) -> Path:
    """The checkpoint that mmengine's pointer names."""
    return Path((work_dir / 'last_checkpoint').read_text())


def kill_and_resume(
    task: str,
    times: int,
    folder: Path,
    seed: int,
    processes: int = 1,
    moments=tuple(MOMENTS),
    stock: bool = False,
) -> Outcome:
    """Kill runs again and again, and start each with the same command until it is complete.

    Args:
        task (str): Which mini run.
        times (int): How many kills.
        folder (Path): An empty folder.
        seed (int): Decides when to kill.
        processes (int): Processes of the run, all of which are killed. Defaults to 1.
        moments (Sequence[str]): Keys of :data:`MOMENTS`, taken in turn.
        stock (bool): Whether the runs that are killed are of the toolbox's own ``tools/train.py``;
            they are compared with one of ours. Defaults to False.

    Returns:
        Outcome: Failures are a run that does not resume from its newest checkpoint, or ends with
        other weights than one that nobody killed.
    """
    outcome, rng = Outcome(), random.Random(seed)
    make_data(folder)
    reference = MiniRun(task, folder, 'reference', processes=processes)
    if any(reference.run('--resume')):
        outcome.fail(f'the run that nobody killed failed: {reference.output()[-500:]}')
        return outcome
    kills = lives = 0
    while kills < times:
        lives += 1
        run = MiniRun(task, folder, f'run{lives}', processes=processes, stock=stock)
        lived = False
        while not lived:
            done = complete_checkpoints(run.work_dir)
            expected = progress(done[-1]) if done else 0
            moment = moments[(seed + kills) % len(moments)]
            codes = _live(run, moment if kills < times else 'never', rng)
            _check_start(outcome, run, expected)
            lived = not any(codes)
            if not lived and codes[0] == KILLED:
                kills += 1
                outcome.add(f'killed ({moment})')
            elif not lived:
                outcome.fail(f'ended with {codes}: {run.output()[-500:]}')
                return outcome
        _compare(outcome, run, reference)
    return outcome


def _live(run: MiniRun, moment: str, rng: random.Random) -> list[int]:
    """One life of a run: its exit codes."""
    if moment == 'any time':
        started = run.start('--resume')
        started[0].join(rng.uniform(0.1, _RUN_SECONDS * run.processes))
        for process in started:
            process.kill()
        return [end(process) for process in started]
    count = rng.randint(1, MOMENTS.get(moment, 1))
    started = run.start('--resume', INJECT=f'{moment}:{count}:kill', INJECT_RANK='0')
    codes = [end(started[0])]
    for process in started[1:]:  # as the launcher does
        if codes[0]:
            process.kill()
        codes.append(end(process))
    return codes


def _check_start(outcome: Outcome, run: MiniRun, expected: int) -> None:
    """Whether a life began where the last complete checkpoint is."""
    output = run.output()
    resumed = re.search(r'resumed epoch: \d+, iter: (\d+)', output)
    if resumed is not None:
        outcome.check(
            int(resumed[1]) == expected,
            'went on from the newest checkpoint',
            f'went on from iteration {resumed[1]}, though {expected} was saved',
        )
    elif expected and '(train)' in output:
        outcome.fail(f'started anew, though iteration {expected} was saved')


def _compare(outcome: Outcome, run: MiniRun, reference: MiniRun) -> None:
    last, theirs = last_checkpoint(run.work_dir), last_checkpoint(reference.work_dir)
    different = differences(last, theirs)
    outcome.check(
        not different and last.name == theirs.name,
        'ended with the state of an undisturbed run',
        f'{last} differs from {theirs} in {", ".join(different)}',
    )


def signal_and_resume(task: str, times: int, folder: Path, seed: int) -> Outcome:
    """Send a scheduler's signals to a run and its data workers, and start it again.

    Args:
        task (str): Which mini run.
        times (int): How many signals.
        folder (Path): An empty folder.
        seed (int): Decides when.

    Returns:
        Outcome: Failures are another exit code, a signal that costs an iteration or a validation,
        and other weights in the end than without signals.
    """
    outcome, rng = Outcome(), random.Random(seed)
    make_data(folder)
    reference = MiniRun(task, folder, 'reference')
    reference.run()
    for number in range(times):
        run = MiniRun(task, folder, f'run{number}', 'train_dataloader.num_workers=1')
        name = ('term', 'usr1')[(seed + number) % 2]
        moment = rng.choice([f'step:{rng.randint(1, 12)}', f'validation:{rng.randint(1, 6)}'])
        (code,) = run.run(INJECT=f'{moment}:{name}')
        outcome.check(
            code == EXIT_CODE,
            f'SIG{name.upper()}: saved and ended with {EXIT_CODE}',
            f'SIG{name.upper()} at {moment} ended with {code}: {run.output()[-500:]}',
        )
        if moment.startswith('step'):
            saved = progress(last_checkpoint(run.work_dir))
            if saved != int(moment.partition(':')[2]):
                outcome.fail(f'{moment}: iteration {saved} was saved')
        if run.run('--resume') != [0]:
            outcome.fail(f'could not go on: {run.output()[-500:]}')
            continue
        _compare(outcome, run, reference)
    return outcome


@fault(
    'Checkpoint',
    'damaged last checkpoint',
    'cut at a random byte, a flipped bit, zeros in the middle, emptied; then started again',
    times=40,
    piece=10,
)
def damage_checkpoints(times: int, folder: Path, seed: int) -> Outcome:
    """Damage the last checkpoint of a run before it is started again.

    Args:
        times (int): How many runs.
        folder (Path): An empty folder.
        seed (int): Decides where the damage is.

    Returns:
        Outcome: Failures are damage that is not noticed, and other weights in the end.
    """
    outcome, rng = Outcome(), random.Random(seed)
    make_data(folder)
    reference = MiniRun('classification', folder, 'reference')
    reference.run()
    for number in range(times):
        run = MiniRun('classification', folder, f'run{number}')
        shutil.copytree(reference.work_dir, run.work_dir)
        newest = run.work_dir / 'epoch_3.pth'
        (run.work_dir / 'last_checkpoint').write_text(str(newest))
        _damage(newest, (seed + number) % 4, rng)
        codes = run.run('--resume')
        noticed = f'Checkpoint {newest} is damaged' in run.output()
        outcome.check(
            codes == [0] and noticed and 'resumed epoch: 2, iter: 8' in run.output(),
            'noticed, and the one before was used',
            f'damage {(seed + number) % 4}: ended with {codes}: {run.output()[-500:]}',
        )
        _compare(outcome, run, reference)
    return outcome


def _damage(path: Path, kind: int, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content) // 10, len(content) * 9 // 10)
    if kind == 0:
        del content[place:]
    elif kind == 1:
        content[place] ^= 1 << rng.randrange(8)
    elif kind == 2:
        content[place : place + 4096] = bytes(len(content[place : place + 4096]))
    else:
        content.clear()
    path.write_bytes(content)


@fault(
    'Checkpoint',
    'full disk',
    'no file may grow beyond a part of a checkpoint (RLIMIT_FSIZE)',
    times=5,
)
def full_disk(times: int, folder: Path, seed: int) -> Outcome:
    """Let the disk be full when a run writes its next checkpoint.

    Args:
        times (int): How many runs.
        folder (Path): An empty folder.
        seed (int): Decides how much of the checkpoint still fits.

    Returns:
        Outcome: Failures are an end without a message, and a checkpoint that suffers.
    """
    outcome, rng = Outcome(), random.Random(seed)
    make_data(folder)
    reference = MiniRun('segmentation', folder, 'reference')
    reference.run()
    first = MiniRun('segmentation', folder, 'first')
    first.run(INJECT='step:6:term')
    size = last_checkpoint(first.work_dir).stat().st_size
    for number in range(times):
        run = MiniRun('segmentation', folder, f'run{number}')
        shutil.copytree(first.work_dir, run.work_dir)
        (run.work_dir / 'last_checkpoint').write_text(str(run.work_dir / 'iter_6.pth'))
        codes = run.run('--resume', INJECT_FILE_SIZE=str(rng.randrange(size // 10, size)))
        kept = [path.name for path in run.work_dir.iterdir() if 'iter_' in path.name]
        kept = [name for name in kept if not name.startswith('best')]
        kept_state = progress(last_checkpoint(run.work_dir)) == 6 and kept == ['iter_6.pth']
        line = (run.output().splitlines() or [''])[-1]
        outcome.check(
            codes == [2] and kept_state and line.startswith('error: there is no room on the disk'),
            'ended with one sentence, the checkpoint before unharmed',
            f'ended with {codes} and {kept}: {run.output()[-500:]}',
        )
        run.run('--resume')
        _compare(outcome, run, reference)
    return outcome


WAIT = 10  # seconds that processes wait for each other here; longer in earnest


@fault(
    'Distributed',
    'one of two processes killed, stalled or failing',
    f'in a step; processes wait {WAIT} s for each other',
    times=9,
)
def lose_process(times: int, folder: Path, seed: int) -> Outcome:
    """Let one of two processes be lost, and wait for the other to end by itself.

    Args:
        times (int): How many runs.
        folder (Path): An empty folder.
        seed (int): Decides when.

    Returns:
        Outcome: Failures are a process that waits for ever, or ends without an error.
    """
    outcome, rng = Outcome(), random.Random(seed)
    make_data(folder)
    for number in range(times):
        action = ('kill', 'stall', 'fail')[(seed + number) % 3]
        options = [f'env_cfg.dist_cfg.timeout={WAIT}']
        run = MiniRun('classification', folder, f'run{number}', *options, processes=2)
        inject = dict(INJECT=f'step:{rng.randint(2, 12)}:{action}', INJECT_RANK='1')
        survivor, lost = run.start(**inject)
        began = time.monotonic()
        code = end(survivor, 90 + WAIT)
        seconds = time.monotonic() - began
        lost.kill()
        lost.join()
        output = run.output()
        outcome.check(
            code == 1 and 'RuntimeError' in output.splitlines()[-1],
            f'{action}: the other one ended with an error of its connection',
            f'{action}: the other one ended with {code} after {seconds:.0f} s: {output[-500:]}',
        )
    return outcome


@fault(
    'Distributed',
    'processes with data of different lengths',
    'images missing in the folder of one process',
    times=3,
)
def different_lengths(times: int, folder: Path, seed: int) -> Outcome:
    """Give one of two processes fewer images.

    Args:
        times (int): How many runs.
        folder (Path): An empty folder.
        seed (int): Decides how many fewer.

    Returns:
        Outcome: Failures are a process that starts to train, or waits for ever.
    """
    outcome = Outcome()
    data = make_data(folder) / 'imagenet'
    for number in range(times):
        for rank in range(2):
            shutil.copytree(data, folder / f'run{number}/{rank}')
        # One of a class that has several, so that the classes stay.
        for image in sorted((folder / f'run{number}/1/train').glob('*/*_00002.png'))[: number + 1]:
            image.unlink()
        root = str(folder / f'run{number}/RANK')
        run = MiniRun('classification', folder, f'work{number}', processes=2, data_root=root)
        codes = run.run()
        lines = [run.output(rank).splitlines()[-1] for rank in range(2)]
        sentence = f'different lengths (16, {15 - number} samples, by rank)'
        outcome.check(
            codes == [2, 2] and all(sentence in line for line in lines),
            'both ended with one sentence before training',
            f'ended with {codes}: {lines}',
        )
    return outcome


@fault(
    'Numbers',
    'gradients that are NaN',
    'those of one parameter in one step, in each task; runs that stop and runs that skip the batch',
    times=18,
    piece=6,
)
def spoil_gradients(times: int, folder: Path, seed: int) -> Outcome:
    """Let the gradients of one step be NaN.

    Args:
        times (int): How many runs.
        folder (Path): An empty folder.
        seed (int): Decides when.

    Returns:
        Outcome: Failures are a step that is taken all the same, an end without the names of the
            images, and a stopped run that does not go on as if nothing had been.
    """
    outcome, rng = Outcome(), random.Random(seed)
    make_data(folder)
    references = {}
    for number in range(times):
        task = TASKS[(seed + number) % len(TASKS)]
        action = ('stop', 'skip')[(seed + number) // len(TASKS) % 2]
        if task not in references:
            references[task] = MiniRun(task, folder, f'reference-{task}')
            references[task].run()
        step = rng.randint(2, 12)
        run = MiniRun(task, folder, f'run{number}', f'default_hooks.non_finite.action={action}')
        (code,) = run.run(INJECT=f'step:{step}:nan')
        output = run.output()
        report = f'the gradients of iteration {step} are not finite, though the loss is; its images'
        named = str(folder / 'data') in output.partition(report)[2].partition('\n')[0]
        if action == 'skip':
            weights = read(last_checkpoint(run.work_dir))['state_dict'].values()
            outcome.check(
                code == 0 and named and all(w.isfinite().all() for w in weights),
                'the batch was named and left out, and the run went on to its end',
                f'{task}, step {step}: ended with {code}: {output[-500:]}',
            )
            continue
        outcome.check(
            code == 2 and named,
            'stopped with the names of the images',
            f'{task}, step {step}: ended with {code}: {output[-500:]}',
        )
        run.run('--resume')
        _compare(outcome, run, references[task])
    return outcome


for _task in TASKS:
    fault(
        'Signal',
        f'SIGTERM and SIGUSR1 in {_task}',
        'sent to the process and its data worker, in a step or in a validation',
        times=10,
        piece=5,
    )(partial(signal_and_resume, _task))
    fault(
        'Kill',
        f'{_task} killed and started again',
        'SIGKILL in a step, in a validation, while a checkpoint is written, before it has its '
        'name, before the file that names it is written, and at any time',
        times=30,
        piece=10,
    )(partial(kill_and_resume, _task))
    fault(
        'Kill',
        f"{_task} by {TOOLBOXES[_task]}'s own tools/train.py, killed and started again",
        'SIGKILL at the same moments; compared with a run of our entry',
        times=20,
        piece=10,
    )(partial(kill_and_resume, _task, stock=True))

for _task in ('classification', 'segmentation'):  # a loop over epochs, and one over iterations
    fault(
        'Kill',
        f'{_task} in two processes, killed and started again',
        'SIGKILL to one at the same moments, to the other by the launcher',
        times=12,
        piece=6,
    )(partial(kill_and_resume, _task, processes=2))
