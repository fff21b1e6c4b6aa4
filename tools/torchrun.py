# Copyright (c) mmdmformer contributors. SPDX-License-Identifier: Apache-2.0
"""torchrun, which ends with 75 where its processes did: interrupted, start again with --resume.

torchrun itself ends with 1 whatever its processes end with, and at a SIGUSR1 without telling them.
"""

import os
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

INTERRUPTED = 75  # mmdmformer.engine.hooks.signals.EXIT_CODE, without its slow imports


def pass_on(number: int, _) -> None:
    """Send a signal to the processes that train."""
    pid = os.getpid()
    for child in Path(f'/proc/{pid}/task/{pid}/children').read_text().split():
        os.kill(int(child), number)


def main() -> None:
    signal.signal(signal.SIGUSR1, pass_on)
    try:
        run(parse_args(sys.argv[1:]))
    except SignalException:  # which its processes were told
        sys.exit(INTERRUPTED)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        if INTERRUPTED in codes:
            sys.exit(INTERRUPTED)
        rank, first = error.get_first_failure()
        sys.exit(
            f'error: process {rank} of the job ended first, with code {first.exitcode}; what it '
            'wrote is above.'
        )


if __name__ == '__main__':
    main()
