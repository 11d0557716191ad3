"""The memory limit without control groups: what counts, what does not, and that nobody innocent is killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from e2b import CommandExitException
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import NO_IDENTITIES, RunningManager, running_manager, wait_for

MEMORY = 512
LIMITS = ("--memory", str(MEMORY), "--processes", "1000", "--cpus", "2")

pytestmark = pytest.mark.needs("namespaces")


@pytest.fixture(scope="module", params=["several users", "one user"])
def limited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    prelude = NO_IDENTITIES if request.param == "one user" else ""
    with running_manager(tmp_path_factory.mktemp("limited"), *LIMITS, prelude=prelude) as running:
        if httpx.get(f"{running.api_url}/health", headers={"Accept": "application/json"}).json()["limits"] != "rlimits":
            pytest.skip("control groups limit memory here")
        yield running


@pytest.fixture
def sandbox(limited: RunningManager) -> Iterator[Sandbox]:
    with patch_e2b(False), Sandbox.create(domain=limited.domain, api_key=limited.api_key) as running:
        yield running


def run(sandbox: Sandbox, program: str) -> str:
    """Run a Python program that has to succeed, and return its output."""
    sandbox.files.write("program.py", program)
    return sandbox.commands.run("python program.py", timeout=120).stdout


def killed(sandbox: Sandbox, program: str) -> str:
    """Run a Python program that has to be killed, and return the reason."""
    sandbox.files.write("program.py", program)
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("exec python program.py", timeout=120)
    return str(caught.value.error)


def kills_of(sandbox: Sandbox, manager: RunningManager) -> list[str]:
    lines = manager.log.read_text().splitlines()
    return [line for line in lines if sandbox.sandbox_id in line and ("was killed" in line or "is ended" in line)]


def is_alive(sandbox: Sandbox) -> bool:
    return sandbox.commands.run("echo fine").stdout == "fine\n" and sandbox.run_code("1 + 1").text == "2"


THREADS = """
import threading
done = threading.Event()
threads = [threading.Thread(target=done.wait) for _ in range(400)]
for thread in threads:
    thread.start()
print(len(threads))
done.set()
"""

RESERVED = """
import mmap
kept = bytes(3 << 30), mmap.mmap(-1, 3 << 30, mmap.MAP_PRIVATE)
print(len(kept[0]) + len(kept[1]) >> 30)
"""


@pytest.mark.parametrize(("program", "output"), [(THREADS, "400\n"), (RESERVED, "6\n")], ids=["stacks", "untouched"])
def test_reserved_addresses_are_no_memory(program: str, output: str, sandbox: Sandbox) -> None:
    assert run(sandbox, program) == output
    assert "".join(sandbox.run_code(program).logs.stdout) == output


FORK_POOL = f"""
import os
kept = bytearray(b'x') * ({MEMORY} * 2 // 3 << 20)
running = set()
for number in range(150):
    child = os.fork()
    if child == 0:
        for _ in range(20_000):
            pass
        os._exit(0)
    running.add(child)
    while len(running) >= 8:
        running.discard(os.wait()[0])
while running:
    running.discard(os.wait()[0])
print('done')
"""
SPAWNER = f"""
import subprocess
kept = bytearray(b'x') * ({MEMORY} * 2 // 3 << 20)
for _ in range(100):
    subprocess.run(['true'], check=True)
print('done')
"""
MAPPED_FILE = f"""
import mmap, os, time
size = {MEMORY} * 3 // 5 << 20
file = os.memfd_create('x')
os.ftruncate(file, size)
kept = mmap.mmap(file, size)
for at in range(0, size, 4096):
    kept[at] = 1
if os.fork() == 0:
    sum(kept[at] for at in range(0, size, 4096))
    time.sleep(3)
    os._exit(0)
os.wait()
print('done')
"""


@pytest.mark.parametrize(
    "program", [FORK_POOL, SPAWNER, MAPPED_FILE], ids=["pool of forks", "subprocesses", "mapped and open file"]
)
def test_pages_that_processes_share_count_once(program: str, sandbox: Sandbox, limited: RunningManager) -> None:
    assert run(sandbox, program) == "done\n"
    assert kills_of(sandbox, limited) == []


RUNAWAY = """
taken = []
while True:
    taken.append(bytearray(b'x') * 20_000_000)
"""
PAGE_TABLES = """
import mmap
kept = mmap.mmap(-1, 1 << 40, mmap.MAP_PRIVATE | 0x4000, mmap.PROT_READ)  # no reservation
for at in range(0, 1 << 40, 1 << 21):
    kept[at]
"""
LEADERLESS = f"""
import ctypes, threading, time
def take():
    time.sleep(0.5)
    kept = bytearray(b'x') * ({2 * MEMORY} << 20)
    time.sleep(100)
threading.Thread(target=take).start()
ctypes.CDLL(None).syscall({60 if os.uname().machine == "x86_64" else 93}, 0)
"""


@pytest.mark.parametrize("program", [RUNAWAY, PAGE_TABLES, LEADERLESS], ids=["pages", "page tables", "no first thread"])
def test_a_process_that_takes_too_much_is_killed_and_nobody_else(
    program: str, sandbox: Sandbox, limited: RunningManager
) -> None:
    with Sandbox.create(domain=limited.domain, api_key=limited.api_key) as neighbour:
        neighbour.run_code("kept = 7")
        assert f"of {MEMORY} MiB of memory, and this process" in killed(sandbox, program)
        assert is_alive(sandbox)
        assert neighbour.run_code("kept").text == "7"
        assert kills_of(neighbour, limited) == []
    assert len(kills_of(sandbox, limited)) == 1
    assert limited.process.poll() is None


HIDERS = f"""
import os, time
def hide():
    kept = bytearray(b'x') * ({MEMORY} * 2 // 3 << 20)
    end = time.monotonic() + 60
    running = set()
    while time.monotonic() < end:
        child = os.fork()
        if child == 0:
            os._exit(0)
        running.add(child)
        while len(running) >= 8:
            running.discard(os.wait()[0])
    os._exit(0)
children = set()
for _ in range(2):
    child = os.fork()
    if child == 0:
        hide()
    children.add(child)
print(os.waitstatus_to_exitcode(os.wait()[1]))
os.kill(0, 9)
"""


def test_memory_does_not_hide_behind_short_lived_forks(sandbox: Sandbox, limited: RunningManager) -> None:
    sandbox.files.write("program.py", HIDERS)
    with contextlib.suppress(CommandExitException):
        sandbox.commands.run("setsid python program.py", timeout=120)
    assert "of memory, and this process" in kills_of(sandbox, limited)[0]


def test_the_kernel_would_end_a_sandbox_before_the_manager(sandbox: Sandbox, limited: RunningManager) -> None:
    own = int(Path(f"/proc/{limited.process.pid}/oom_score_adj").read_text())
    for user in ("user", "root"):
        assert int(sandbox.commands.run("cat /proc/self/oom_score_adj", user=user).stdout) > own
    assert int("".join(sandbox.run_code("print(open('/proc/self/oom_score_adj').read())").logs.stdout)) > own


SLOW_SURVEYS = """
import time
from pathlib import Path
from kruise_agents.manager.runtime.limits import memory
share = memory.memory_share
def slow_share(process, bound):
    command = Path(f"/proc/{process.pid}/cmdline")
    while b"slow.py" in command.read_bytes():
        time.sleep(0.05)
    return share(process, bound)
memory.memory_share = slow_share
"""
SHARERS = f"""
import os, time
kept = bytearray(b'x') * ({MEMORY} * 2 // 3 << 20)
os.fork()
time.sleep(600)
"""


@pytest.mark.timeout(420)
def test_a_sandbox_that_takes_long_to_measure_keeps_no_others_memory_from_being_held(tmp_path: Path) -> None:
    with running_manager(tmp_path, *LIMITS, prelude=SLOW_SURVEYS) as manager, patch_e2b(False):
        options = {"domain": manager.domain, "api_key": manager.api_key}
        with Sandbox.create(**options) as slow, Sandbox.create(**options) as other:
            slow.files.write("slow.py", SHARERS)
            slow.commands.run("python slow.py", background=True)
            wait_for(lambda: len(slow.commands.run("pgrep -f [s]low.py").stdout.split()) >= 2)
            for _ in range(3):
                assert "of memory, and this process" in killed(other, RUNAWAY)
            other.files.write("program.py", HIDERS)
            for _ in range(3):  # a survey of forks that never pause finds only what it happens to meet
                if len(kills_of(other, manager)) < 4:
                    with contextlib.suppress(CommandExitException):
                        other.commands.run("setsid python program.py", timeout=120)
            assert len(kills_of(other, manager)) >= 4
