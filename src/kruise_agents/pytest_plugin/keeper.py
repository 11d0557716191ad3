"""Process that keeps the embedded manager of a pytest run until the run has ended, also when the run is killed.

The manager is no child of a worker of pytest-xdist, because a worker may crash while others go on.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

from ..embedded import CONNECTION_FILE, start_manager
from ..errors import KruiseAgentsError
from .run_folder import KEEP_FILE, KEPT_SECONDS, LOG_FILE, PID_FILE


def main(folder: Path, run: int, options: list[str]) -> None:
    """Start a manager, tell its starter by closing standard output, and remove ``folder`` after the run.

    If the manager does not start, write the reason to standard output instead, and leave the folder to the run.

    Args:
        folder: The folder of the run.
        run: The process whose end ends the manager.
        options: Options of ``serve``.
    """
    if os.fork():  # the starter waits for the output, and need not look after a child
        os._exit(0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with contextlib.ExitStack() as last, contextlib.ExitStack() as stack:
        try:
            end_of_run = os.pidfd_open(run)
            manager = stack.enter_context(start_manager(*options, log=folder / LOG_FILE))
            (folder / PID_FILE).write_text(str(os.getpid()))
            stack.enter_context(manager.published(folder / CONNECTION_FILE))
        except (KruiseAgentsError, OSError) as error:
            print(error, flush=True)
            return
        last.callback(shutil.rmtree, folder, ignore_errors=True)  # the run waits for this
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        select.select([end_of_run], [], [])
        if (folder / KEEP_FILE).exists():
            time.sleep(KEPT_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
