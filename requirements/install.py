#!/usr/bin/env python3
# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Makes the environment that the Makefile's commands run in.

It needs nothing but Python's standard library, and its syntax is one that Python 3.6 can read, so
that an old Python is told what is wrong in a sentence. The packages of a stack are installed from
its lock file, which holds exact versions for every supported Python; what was done is recorded
inside the environment, step by step, so that a finished step is not repeated and an interrupted
one is.
"""

import argparse
import ast
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = 'uv==0.13.8'
OLDEST, NEWEST = (3, 10), (3, 13)  # mmcv calls pkgutil.find_loader, which Python 3.14 dropped
STACKS = {'openmmlab': 'requirements.txt', 'onedl': 'requirements/onedl.txt'}
RECORD = 'mmdmformer-setup.json'
REPORT = """
import platform, torch, torchvision, mmdmformer, mmengine, mmcv, mmdet, mmpretrain, mmseg
modules = mmdmformer, torch, torchvision, mmengine, mmcv, mmdet, mmpretrain, mmseg
names = ', '.join(f'{m.__name__} {m.__version__}' for m in modules)
print(f'Python {platform.python_version()}, {names}')
"""


class SetupError(Exception):
    """What went wrong, in one sentence with the cure."""


class Steps:
    """Prints what is being done and the seconds since the start."""

    def __init__(self):
        self.start = time.time()

    def seconds(self):
        return time.time() - self.start

    def __call__(self, text):
        print(f'[{self.seconds():5.1f} s] {text}', flush=True)


def lock_file(stack):
    """The file with the exact versions of everything in a stack."""
    return f'requirements/lock-{stack}.txt'


def input_files(stack):
    """The files that a stack's lock is made from."""
    return [
        STACKS[stack],
        'requirements/headless.txt',
        'requirements/tests.txt',
        'requirements/optional.txt',
    ]


def pins(path):
    """Every ``name==version`` of a requirements file.

    Args:
        path (str or Path): The file, relative to the project's root.

    Returns:
        set[str]: The pins, names in lower case, without markers and comments.
    """
    lines = (ROOT / path).read_text(encoding='utf-8').splitlines()
    found = (re.match(r'([\w.-]+==[\w.+!]+)', line) for line in lines)
    return {match.group(1).lower() for match in found if match}


def check_lock(stack):
    """Raises SetupError where the requirements ask for what the lock does not hold."""
    locked = pins(lock_file(stack))
    for path in input_files(stack):
        missing = sorted(pins(path) - locked)
        if missing:
            raise SetupError(
                f'{path} asks for {missing[0]}, which {lock_file(stack)} does not hold:'
                ' run `make lock` and try again.'
            )


def digest(paths, *more):
    """A hash over the names and contents of files, and over further strings."""
    result = hashlib.sha256()
    for path in sorted(paths):
        result.update(str(path).encode() + b'\0' + (ROOT / path).read_bytes() + b'\0')
    for text in more:
        result.update(str(text).encode() + b'\0')
    return result.hexdigest()


def wanted(stack, venv):
    """What the record of an up-to-date environment says, by step in order."""
    requirements = input_files(stack) + [lock_file(stack), 'requirements/install.py']
    packages = digest(requirements, venv)
    project = digest(['setup.py', 'pyproject.toml', 'mmdmformer/version.py'], ROOT)
    return {'packages': packages, 'project': project, 'checked': packages + project}


def this_python():
    """The interpreter that runs this, seen through any environment it is part of."""
    return os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable)


def other_python():
    """The name of a Python on the PATH that would do, or None."""
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        name = f'python3.{minor}'
        if shutil.which(name) and subprocess.call([name, '-c', ''], stderr=subprocess.DEVNULL) == 0:
            return name
    return None


def check_python(again):
    """Raises SetupError where this Python cannot carry the environment."""
    here = '{}.{}.{} ({})'.format(*sys.version_info[:3], this_python())
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        name = other_python()
        needed = 'Python {}.{} to {}.{}'.format(*OLDEST, *NEWEST)
        cure = '' if name else 'install one and '
        name = name or 'python{}.{}'.format(*NEWEST)
        raise SetupError(
            f'{needed} is needed and this is {here}: {cure}run `{again} PYTHON={name}`.'
        )
    if subprocess.call([this_python(), '-c', 'import ensurepip, venv'], stderr=subprocess.DEVNULL):
        package = 'python{}.{}-venv'.format(*sys.version_info)
        raise SetupError(
            f'Python {here} lacks what makes environments: install it (Debian and Ubuntu: `apt'
            f' install {package}`) and run `{again}` again.'
        )


def run(command, trouble, **options):
    """Runs a command whose own output says how it goes.

    Args:
        command (list[str or Path]): The command.
        trouble (str): The sentence to raise when it fails.
        **options: Passed to :func:`subprocess.call`.
    """
    if subprocess.call([str(part) for part in command], **options):
        raise SetupError(trouble)


def uv_environment(venv, uv):
    """Environment variables for uv, which does not read pip's settings by itself."""
    environment = dict(os.environ, UV_PYTHON_DOWNLOADS='never')
    if not {'UV_DEFAULT_INDEX', 'UV_INDEX_URL'} & set(environment):
        settings = subprocess.check_output([str(venv / 'bin/pip'), 'config', 'list'])
        settings = dict(re.findall(r'^(\S+)\.index-url=(.+)$', settings.decode(), re.M))
        for section in (':env:', 'install', 'global'):
            if section in settings:
                environment['UV_DEFAULT_INDEX'] = ast.literal_eval(settings[section])
                break
    if 'UV_LINK_MODE' not in environment:
        cache = Path(subprocess.check_output([str(uv), 'cache', 'dir']).decode().strip())
        cache.mkdir(parents=True, exist_ok=True)
        if cache.stat().st_dev != venv.stat().st_dev:  # uv would try hard links, and warn
            environment['UV_LINK_MODE'] = 'copy'
    return environment


def make_uv(venv, python, again, step):
    """Makes a new environment with uv in it.

    Returns:
        tuple: uv's path, and the environment variables to run it with.
    """
    step(f'making {venv} with {python}')
    run(
        [python, '-m', 'venv', venv],
        f'{python} could not make an environment in {venv} (its own words are above): cure that'
        f' and run `{again}` again.',
    )
    step(f'installing {UV}')
    pip = [venv / 'bin/python', '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    run(pip + ['--only-binary', ':all:', UV], no_packages(again))
    uv = venv / 'bin/uv'
    return uv, uv_environment(venv, uv)


def no_packages(again):
    return (
        'The packages could not be fetched or installed (see the lines above): check the network'
        ' (behind a proxy set HTTPS_PROXY, for a mirror PIP_INDEX_URL) and the free disk space'
        f' (about 6 GB), and run `{again}` again, which keeps what has arrived.'
    )


@contextlib.contextmanager
def hold(venv):
    """Keeps other set-ups out of an environment, and gives its record.

    Args:
        venv (Path): The environment's folder, made if need be.

    Yields:
        tuple: The record as a dict, and a function that saves it.
    """
    path = venv / RECORD
    if venv.exists() and not path.exists() and any(venv.iterdir()):
        raise SetupError(
            f'{venv} holds something that this set-up did not make: remove it, or choose another'
            ' folder with `VENV=folder`.'
        )
    venv.mkdir(parents=True, exist_ok=True)
    with open(str(path), 'a+') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f'waiting for another set-up of {venv} to finish', flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        try:
            record = json.loads(file.read())
        except ValueError:
            record = {}

        def save():
            file.seek(0)
            file.truncate()
            json.dump(record, file, indent=1)
            file.flush()

        yield record, save


def empty(venv):
    """Removes everything from an environment but its record, which other set-ups wait on."""
    for path in venv.iterdir():
        if path.name != RECORD:
            shutil.rmtree(str(path)) if path.is_dir() and not path.is_symlink() else path.unlink()


def install_packages(stack, venv, python, again, step):
    """Builds the environment from nothing."""
    empty(venv)
    uv, environment = make_uv(venv, python, again, step)
    lock = ROOT / lock_file(stack)
    step(f'installing the packages of {lock_file(stack)}')
    command = [uv, 'pip', 'install', '--python', venv / 'bin/python', '--no-deps']
    run(command + ['--build-constraints', lock, '-r', lock], no_packages(again), env=environment)


def install_project(venv, again, step):
    """Installs this checkout in editable mode; what it needs is there already."""
    uv = venv / 'bin/uv'
    step(f'installing mmdmformer from {ROOT} (editable)')
    command = [uv, 'pip', 'install', '--python', venv / 'bin/python', '--no-deps', '--offline']
    run(
        command + ['--no-build-isolation', '--editable', ROOT],
        f'mmdmformer itself could not be installed (uv says why above): cure that and run'
        f' `{again}` again.',
    )


def check_imports(venv, again, step):
    """Imports everything once, from outside the checkout.

    Returns:
        str: The versions, as a line.
    """
    step('checking that everything imports')
    result = subprocess.run(
        [str(venv / 'bin/python'), '-W', 'ignore', '-c', REPORT],
        cwd=str(venv),
        capture_output=True,
        text=True,
    )
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ['no output'])[-1]
        raise SetupError(
            f'The packages are installed, but mmdmformer cannot be imported ({reason}): cure that'
            f' and run `{again}` again, or remove {venv} first to begin anew.'
        )
    return result.stdout.strip().splitlines()[-1]


def set_up(stack, venv, fixed_python=False):
    """Brings an environment up to date; says nothing where it is.

    Args:
        stack (str): A key of STACKS.
        venv (Path): The environment's folder.
        fixed_python (bool): Whether the environment must be made by the Python that runs this.
            Otherwise an existing environment keeps the one that it was made by.
    """
    step = Steps()
    again = 'make setup' if stack == 'openmmlab' else f'make setup STACK={stack}'
    goal = wanted(stack, venv)
    if not (venv / RECORD).exists():
        check_python(again)
    with hold(venv) as (record, save):
        python = record.get('python', '')
        if not os.path.exists(python) or (fixed_python and python != this_python()):
            python = this_python()
        stale = record.get('python') != python or not (venv / 'bin/python').exists()
        if not stale and all(record.get(name) == value for name, value in goal.items()):
            return
        check_lock(stack)

        def finish(name):
            record[name] = goal[name]
            save()

        if stale or record.get('packages') != goal['packages']:
            if python == this_python():
                check_python(again)
            record.clear()
            record['python'] = python
            save()
            install_packages(stack, venv, python, again, step)
            finish('packages')
        if record.get('project') != goal['project']:
            install_project(venv, again, step)
            finish('project')
        versions = check_imports(venv, again, step)
        finish('checked')
    print(f'Ready after {step.seconds():.0f} s in {venv}: {versions}')


def write_locks():
    """Writes the lock file of every stack, keeping the versions that still fit."""
    step = Steps()
    check_python('make lock')
    with tempfile.TemporaryDirectory() as folder:
        uv, environment = make_uv(Path(folder), this_python(), 'make lock', step)
        for stack in STACKS:
            step(f'resolving {lock_file(stack)}')
            command = [uv, 'pip', 'compile', '--quiet', '--universal', '--python-version']
            command += ['{}.{}'.format(*OLDEST), '--emit-build-options', '--no-annotate']
            command += ['--overrides', 'requirements/overrides.txt']
            command += ['--custom-compile-command', 'make lock']
            run(
                command + input_files(stack) + ['--output-file', lock_file(stack)],
                f'uv found no set of versions for {STACKS[stack]} (it says why above): change the'
                ' pins there and run `make lock` again.',
                cwd=str(ROOT),
                env=environment,
            )


def main(argv=None):
    """Parses the command line and says errors in a sentence.

    Args:
        argv (list[str], optional): The arguments; those of the process by default.

    Returns:
        int: The exit status.
    """
    parser = argparse.ArgumentParser(description='Make the environment to run mmdmformer in.')
    parser.add_argument('--stack', choices=sorted(STACKS), default='openmmlab')
    parser.add_argument('--venv', default='.venv', help='the folder of the environment')
    parser.add_argument(
        '--fixed-python', action='store_true', help='make it by this Python, even if it exists'
    )
    parser.add_argument('--lock', action='store_true', help='write the lock files instead')
    args = parser.parse_args(argv)
    try:
        if args.lock:
            write_locks()
        else:
            set_up(args.stack, Path(os.path.abspath(args.venv)), args.fixed_python)
    except SetupError as error:
        print(f'Set-up: {error}', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'Set-up: {error}: cure that, or set VENV=folder to go elsewhere.', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nSet-up: interrupted; run it again to finish it.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
