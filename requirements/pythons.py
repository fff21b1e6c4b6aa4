#!/usr/bin/env python3
# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Tries every supported Python that is found, on both stacks, with the locked and the newest torch.

`make pythons` runs it; what follows goes to pytest, such as the files to run instead. Each
environment lies in a temporary folder. It prints a row of docs/get_started.md's table for each.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from install import NEWEST, OLDEST, ROOT, STACKS, lock_file, uv_environment

TESTS = ['tests/test_compat', 'tests/test_ops', 'tests/test_backbones/test_contract.py']
TESTS += ['tests/test_tools/test_train_test.py', '-m', 'not slow']
KINDS = ['locked', 'newest']
# What moves along with torch, without the caps of the lock.
NEWEST_PACKAGES = ['torch', 'torchvision', 'numpy', 'setuptools']
VERSIONS = """
import platform
from importlib.metadata import version
print(platform.python_version(), *map(version, ('torch', 'numpy', 'setuptools')), sep=' | ')
"""


def interpreters():
    """The path of each supported Python on the PATH or among pyenv's, by its version."""
    found = {}
    pyenv = Path(os.environ.get('PYENV_ROOT', Path.home() / '.pyenv')) / 'versions'
    for minor in range(OLDEST[1], NEWEST[1] + 1):
        name = f'python3.{minor}'
        for path in [*sorted(pyenv.glob(f'3.{minor}.*/bin/python')), shutil.which(name)]:
            if path and not subprocess.call([path, '-c', ''], stderr=subprocess.DEVNULL):
                found[f'3.{minor}'] = str(path)
                break
    return found


def try_one(python, stack, newest, tests, folder):
    """Makes an environment and runs tests in it.

    Args:
        python (str): The interpreter.
        stack (str): A key of STACKS.
        newest (bool): Whether to take the newest torch, numpy and setuptools.
        tests (list[str]): Arguments of pytest.
        folder (Path): A new folder for the environment.

    Returns:
        str: The row.
    """
    uv = Path(sys.prefix) / 'bin/uv'
    environment = dict(uv_environment(Path(sys.prefix), uv), OMP_NUM_THREADS='1')
    environment['PYTHONPATH'] = str(ROOT)
    here, lock = folder / 'bin/python', ROOT / lock_file(stack)
    install = [uv, 'pip', 'install', '--quiet', '--python', here]
    commands = [
        [uv, 'venv', '--quiet', '--python', python, folder],
        [*install, '--no-deps', '--build-constraints', lock, '-r', lock],
    ]
    if newest:
        commands.append([*install, '--upgrade', *NEWEST_PACKAGES])
    for command in commands:
        subprocess.run([str(part) for part in command], check=True, env=environment)
    versions = subprocess.check_output([str(here), '-c', VERSIONS], text=True).strip()
    done = subprocess.run(
        [str(here), '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *(tests or TESTS)],
        cwd=str(ROOT),
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = done.stdout.strip().splitlines() or ['no output']
    if done.returncode:
        print('\n'.join(line for line in lines if line.startswith(('FAILED', 'ERROR', 'E  '))))
    return f'| {versions} | {stack} | {lines[-1].strip("= ")} |'


def main():
    """Tries what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--python', action='append', help='such as 3.12 (default: each)')
    parser.add_argument('--stack', action='append', choices=STACKS, help='(default: both)')
    parser.add_argument('--torch', action='append', choices=KINDS, help='(default: both)')
    args, tests = parser.parse_known_args()
    found = interpreters()
    for version in args.python or [f'3.{m}' for m in range(OLDEST[1], NEWEST[1] + 1)]:
        if version not in found:
            print(f'Python {version} is not found here.')
            continue
        for stack in args.stack or STACKS:
            for kind in args.torch or KINDS:
                with tempfile.TemporaryDirectory() as folder:
                    row = try_one(found[version], stack, kind == 'newest', tests, Path(folder))
                print(row, flush=True)


if __name__ == '__main__':
    main()
