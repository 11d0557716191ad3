"""Many sandboxes come and go, and nothing is left of them."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kruise_agents.patch_e2b import patch_e2b
from support.managers import running_manager, wait_for
from support.soak import cycle, settled

pytestmark = pytest.mark.live
CYCLES = 20
POOL = 1
_WRITES_ARENAS = """
import ctypes, signal
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
def write_arenas(*_):
    file = ctypes.c_void_p(libc.fopen({path!r}.encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
signal.signal(signal.SIGUSR2, write_arenas)
"""
"""Lets a manager tell, when it gets the signal, from where its C library has taken memory."""


def test_nothing_is_left_of_many_sandboxes(tmp_path: Path) -> None:
    with patch_e2b(False), running_manager(tmp_path, pool=POOL) as manager, ThreadPoolExecutor(3) as workers:
        for _ in range(3):
            cycle(manager)
        before = settled(manager, POOL)
        for done in [workers.submit(cycle, manager) for _ in range(CYCLES)]:
            done.result()
        # Connections of the last cycles may be open for a moment still.
        left: list[str] = []

        def nothing_left() -> bool:
            left[:] = settled(manager, POOL).more_than(before)
            return not left

        try:
            wait_for(nothing_left, 60, "an end of what was there")
        except AssertionError:
            raise AssertionError(f"left over: {left}") from None


_TELLS_ARENAS = """
import ctypes, threading
from kruise_agents.cli.serve import share_memory_between_threads

share_memory_between_threads()
libc = ctypes.CDLL(None)
together = threading.Barrier(4)
def take():
    libc.malloc(1000)
    together.wait()
threads = [threading.Thread(target=take) for _ in range(3)]
for thread in threads:
    thread.start()
together.wait()
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""
_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas for threads")


@_glibc
@pytest.mark.parametrize(("variable", "shared"), [({}, True), ({"MALLOC_ARENA_MAX": "4"}, False)])
def test_who_sets_glibcs_own_variable_decides(variable: dict[str, str], shared: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | variable
    done = subprocess.run(
        [sys.executable, "-c", _TELLS_ARENAS], env=environment, capture_output=True, text=True, check=True
    )
    assert (re.findall(r'<heap nr="(\d+)">', done.stdout) == ["0"]) is shared


@_glibc
def test_threads_of_a_manager_keep_no_memory_of_their_own(tmp_path: Path) -> None:
    told = tmp_path / "arenas.xml"
    with patch_e2b(False), running_manager(tmp_path, prelude=_WRITES_ARENAS.format(path=str(told))) as manager:
        cycle(manager)
        assert len(list(Path(f"/proc/{manager.process.pid}/task").iterdir())) > 1
        manager.process.send_signal(signal.SIGUSR2)
        wait_for(lambda: told.exists() and told.read_text().endswith("</malloc>\n"), what="what malloc tells")
    assert re.findall(r'<heap nr="(\d+)">', told.read_text()) == ["0"]
