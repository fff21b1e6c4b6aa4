# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Break the package on purpose, one place at a time, and see whether its tests notice.

Places are drawn at random from all expressions of the package, at most one of each module. A copy
of the repository gets one change (``<`` to ``<=``, ``+`` to ``-``, ``and`` to ``or``, 3 to 4,
``return x`` to ``return None``), and the tests that import the changed module, its docstring's
examples and the contract that each module of its package fulfills, run until the first fails. The
slow ones do not run.

Each row is appended to benchmarks/mutation/results.csv at once, and what is there is not run again.
What is drawn depends on the package's text: a row is of the package as it was then, and if it is
deleted, another place may be drawn.
"""

from __future__ import annotations

import argparse
import ast
import csv
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from mmdmformer.engine.runtime import positive

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'benchmarks/mutation/results.csv'
FIELDS = ('module', 'line', 'before', 'after', 'result', 'by', 'seconds')
CAUGHT, ESCAPED = 'caught', 'escaped'
# Their tests need the runtimes of `make runtimes`.
ELSEWHERE = ('deploy/ncnn_export.py', 'deploy/openvino_export.py')
TIMEOUT = 1200  # seconds; a change may make a loop endless
SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """One change: ``before`` at an offset of the module's bytes becomes ``after``."""

    module: str
    line: int
    offset: int
    before: str
    after: str


def mutations(source: str, module: str = '') -> list[Mutation]:
    """All single changes of a module, in the order of its lines.

    Messages, annotations and decorators are left as they are: no test needs to know them.

    Args:
        source (str): The module's text.
        module (str): Its path. Defaults to ``''``.

    Returns:
        list[Mutation]: The changes.

    Examples:
        >>> [(m.before, m.after) for m in mutations('x = a < 3')]
        [('a < 3', '(a <= 3)'), ('3', '4')]
    """
    raw = source.encode()
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in _expressions(ast.parse(source)):
        after = _changed(node)
        if after is not None:
            begin = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            found.append(Mutation(module, node.lineno, begin, raw[begin:end].decode(), after))
    return sorted(found, key=lambda m: (m.offset, -len(m.before)))


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    """Each node below one that may be changed."""
    for name, value in ast.iter_fields(node):
        if name in ('annotation', 'returns', 'decorator_list', 'exc', 'msg'):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield child
                yield from _expressions(child)


def _changed(node: ast.AST) -> str | None:
    """The text of a changed node; None where there is nothing to change."""
    if isinstance(node, ast.Compare):
        node = ast.Compare(node.left, [_swap(node.ops[0]), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        node = ast.BinOp(node.left, _swap(node.op), node.right)
    elif isinstance(node, ast.BoolOp):
        node = ast.BoolOp(_swap(node.op), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node = node.operand
    elif isinstance(node, ast.Constant) and type(node.value) in (bool, int):
        node = ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.Return) and node.value and ast.unparse(node.value) != 'None':
        return 'return None'
    else:
        return None
    text = ast.unparse(node)
    return text if isinstance(node, ast.Constant) else f'({text})'


def _swap(operator: ast.AST) -> ast.AST:
    return SWAPS[type(operator)]()


def draw(count: int, seed: int = 0) -> list[Mutation]:
    """Draw changes from the package, a module being as likely as it is long.

    Args:
        count (int): How many, each of another module.
        seed (int): Of the draw. Defaults to 0.

    Returns:
        list[Mutation]: The changes, by module.
    """
    rng = random.Random(seed)
    places = {}
    for path in sorted((ROOT / 'mmdmformer').rglob('*.py')):
        module = path.relative_to(ROOT).as_posix()
        found = mutations(path.read_text(), module)
        if found and not module.endswith(ELSEWHERE) and '/.mim/' not in module:
            places[module] = found
    drawn = []
    while places and len(drawn) < count:
        [module] = rng.choices(list(places), [len(found) for found in places.values()])
        drawn.append(rng.choice(places.pop(module)))
    return sorted(drawn, key=lambda m: m.module)


def files_that_test(module: str) -> list[str]:
    """The test files that import a module or a name that is defined in it, and its contract."""
    name = module.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
    beside = ROOT / f'tests/test_{name.split(".")[1]}'
    files = sorted((ROOT / 'tests').rglob('test_*.py'))
    found = [path for path in files if name in _imported(path)]
    if not found:  # a part that only its neighbors use
        found = [path for path in files if path.parent == beside]
    found += [path for path in beside.glob('test_*contract.py') if path not in found]
    return [path.relative_to(ROOT).as_posix() for path in found if 'test_clients' not in str(path)]


def _imported(path: Path) -> set[str]:
    """The modules of the package that a test's import statements reach."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mmdmformer'):
            modules.add(node.module)
            owner = import_module(node.module)
            for each in node.names:
                named = getattr(owner, each.name, None)
                modules |= {getattr(named, '__module__', ''), getattr(named, '__name__', '')}
    return modules


def try_mutation(mutation: Mutation, folder: Path) -> tuple[str, str]:
    """Run the tests on a changed copy.

    Args:
        mutation (Mutation): The change.
        folder (Path): A copy of the repository; it is as before afterwards.

    Returns:
        tuple[str, str]: Whether it was caught, and by which test.
    """
    path = folder / mutation.module
    original = path.read_bytes()
    end = mutation.offset + len(mutation.before.encode())
    path.write_bytes(original[: mutation.offset] + mutation.after.encode() + original[end:])
    command = [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider']
    command += ['-m', 'not slow and not long', mutation.module, *files_that_test(mutation.module)]
    env = {**os.environ, 'PYTHONPATH': str(folder), 'PYTHONDONTWRITEBYTECODE': '1'}
    try:
        run = subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return CAUGHT, f'no end within {TIMEOUT} s'
    finally:
        path.write_bytes(original)
    failed = re.search(r'^(?:FAILED|ERROR) (\S+)', run.stdout, re.MULTILINE)
    if run.returncode == 0:
        return ESCAPED, ''
    if failed is None:  # pytest itself did not run
        raise RuntimeError(f'{shlex.join(command)} ended without a test: {run.stderr[-500:]}')
    return CAUGHT, failed[1]


def read_results() -> list[dict[str, str]]:
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline='') as file:
        return list(csv.DictReader(file))


def copy_repository(folder: Path) -> None:
    """Copy what git knows of, changed files as they are."""
    names = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True).stdout
    for name in filter(lambda each: (ROOT / each).is_file(), names.splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--count', type=positive, default=60, help='changes (default: 60)')
    parser.add_argument('--list', action='store_true', help='print the changes, and run nothing')
    args = parser.parse_args()
    drawn = draw(args.count)
    done = {row['module'] for row in read_results()}
    if args.list:
        for each in drawn:
            print(f'{each.module}:{each.line}: {each.before} -> {each.after}')
        return
    columns = ('{task.description}', BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as folder, Progress(*columns) as progress:
        copy_repository(Path(folder))
        todo = [m for m in drawn if m.module not in done][: max(0, args.count - len(done))]
        for each in progress.track(todo):
            begin = time.monotonic()
            result, by = try_mutation(each, Path(folder))
            seconds = round(time.monotonic() - begin)
            row = (each.module, each.line, each.before, each.after, result, by, seconds)
            is_new = not RESULTS.exists()
            with RESULTS.open('a', newline='') as file:
                csv.writer(file, lineterminator='\n').writerows([FIELDS] * is_new + [row])
            progress.print(f'{each.module}:{each.line} {each.before} -> {each.after}: {result}')
    results = [row['result'] for row in read_results()]
    print(f'{results.count(CAUGHT)} of {len(results)} changes were caught.')


if __name__ == '__main__':
    main()
