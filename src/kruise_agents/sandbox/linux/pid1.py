"""The first process of a sandbox without a pid namespace.

In a pid namespace, the kernel gives orphans to process 1, and ends all processes when process 1 ends. Without such a
namespace, this module does both: the first process adopts and reaps orphans, and kills all descendants before it
exits. If the first process itself is killed, the sandbox's program kills its own descendants and ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from .process import check, libc
from .process_tree import descendants

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_DEADLINE_SECONDS = 1.0
_PATIENCE_SECONDS = 0.5


def supervise(run: Callable[[], int]) -> int:
    """Fork, call ``run`` in the child, kill what the child leaves behind, and return the child's exit code.

    SIGTERM and SIGINT are passed on to the child, which is killed if it has not ended half a second later. The exit
    code of a killed child is negative.
    """
    check(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "becoming the reaper")
    child = os.fork()
    if child == 0:
        # When the parent ends, the program ends too, and kills all that it has started.
        check(libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0), "ending with the parent")
        code = run()
        _end_descendants()
        os._exit(code)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE_SECONDS)

    def lose_patience(_number: int, _frame: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    signal.signal(signal.SIGALRM, lose_patience)
    code = _reap_until(child)
    _end_descendants()
    return code


def _reap_until(child: int) -> int:
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _end_descendants() -> None:
    """Kill every descendant, repeatedly, because descendants may fork meanwhile.

    Give up after one second. A process that still lives usually hangs in a system call that no signal interrupts.
    """
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while (found := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in found:
            # A program with the rights of another user, such as sudo, must not keep the others alive.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        time.sleep(0.001)  # only children can be waited for, not their children


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
