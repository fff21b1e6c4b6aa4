# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""Run Python programs in forks of one process that has imported what takes seconds to import.

Usage: python warm_python.py MODULE...; then one JSON object per line on stdin, answered by one exit
code per line on stdout.
"""

import contextlib
import importlib
import json
import os
import runpy
import signal
import sys
import traceback

from quick_runs import make_runs_quick

TIMEOUT = 300  # seconds


def serve() -> None:
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # what the imports print is no answer
    for name in sys.argv[1:]:
        with contextlib.suppress(ModuleNotFoundError):  # some are optional
            importlib.import_module(name)
    make_runs_quick()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(run(**json.loads(line)))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(status, file=answers, flush=True)


def run(program: str, args: list[str], cwd: str, env: dict, stdout: str, stderr: str) -> int:
    """Run a script, or a module where ``program`` is no path, as ``python`` would."""
    signal.alarm(TIMEOUT)
    os.chdir(cwd)
    os.environ.update(env)
    sys.path[1:1] = env.get('PYTHONPATH', '').split(os.pathsep) if 'PYTHONPATH' in env else []
    for path, stream in ((os.devnull, 0), (stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), stream)
    sys.argv = [program, *args]
    is_script = program.endswith('.py')
    sys.path[0] = os.path.dirname(program) if is_script else cwd
    try:
        if is_script:
            runpy.run_path(program, run_name='__main__')
        else:
            runpy.run_module(program, run_name='__main__', alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else error.code is not None
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code)


if __name__ == '__main__':
    serve()
