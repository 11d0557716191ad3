"""Limits of a sandbox on the machine's resources. Each test tries to take a little more than a limit."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import CommandExitException, SandboxException, Volume
from e2b_code_interpreter import Sandbox

from kruise_agents.manager.runtime.limits.limits import MIB
from kruise_agents.manager.runtime.limits.log_file import MOST_BYTES
from kruise_agents.patch_e2b import patch_e2b
from support.managers import NO_IDENTITIES, RunningManager, running_manager, wait_for

MEMORY, PROCESSES, DISK = 512, 200, 64
LIMITS = ("--memory", str(MEMORY), "--processes", str(PROCESSES), "--disk", str(DISK), "--cpus", "1")

pytestmark = pytest.mark.needs("namespaces")


@pytest.fixture(scope="module", params=["several users", "one user"])
def limited(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    """A manager whose sandboxes have little."""
    prelude = NO_IDENTITIES if request.param == "one user" else ""
    with running_manager(tmp_path_factory.mktemp("limited"), *LIMITS, prelude=prelude) as running:
        yield running


@pytest.fixture(scope="module")
def _of_all(limited: RunningManager) -> Iterator[Sandbox]:
    with patch_e2b(False):
        running = Sandbox.create(domain=limited.domain, api_key=limited.api_key)
    yield running
    with patch_e2b(False):
        running.kill()


@pytest.fixture
def shared_small(_of_all: Sandbox, patched: None) -> Sandbox:
    """A sandbox for tests that reach no limit."""
    return _of_all


@pytest.fixture
def small(limited: RunningManager) -> Iterator[Sandbox]:
    with patch_e2b(False), Sandbox.create(domain=limited.domain, api_key=limited.api_key) as running:
        yield running


def run(sandbox: Sandbox, program: str, **options: object) -> tuple[int, str]:
    """Run a Python program, and return the exit code and all output."""
    sandbox.files.write("program.py", program)
    try:
        done = sandbox.commands.run("python program.py 2>&1", **options)
    except CommandExitException as error:
        return error.exit_code, error.stdout
    return done.exit_code, done.stdout


def answers(sandbox: Sandbox) -> bool:
    try:
        return bool(sandbox.commands.run("echo fine").stdout == "fine\n" and sandbox.run_code("1 + 1").text == "2")
    except SandboxException:
        return False  # what was in its way may not have ended yet


BOMB = """
import os, time
started = 0
end = time.monotonic() + 20
while started < 1000 and time.monotonic() < end:
    try:
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        started += 1
    except BlockingIOError:
        break
print("refused" if started < 1000 else "not refused", started, flush=True)
if started == 1000:
    time.sleep(15)  # where the kernel does not count, somebody has to come and see
os.kill(0, 9)
"""


def test_a_fork_bomb_is_refused_and_the_sandbox_lives(small: Sandbox, limited: RunningManager) -> None:
    if is_ended_by(small, BOMB):
        assert "processes and threads" in limited.log.read_text()
        assert os.geteuid() == 0, "for others the kernel counts"
        return
    wait_for(lambda: answers(small))


def is_ended_by(sandbox: Sandbox, program: str) -> bool:
    """Run a program that takes processes; whether that was the end of the sandbox."""
    code, said = 0, ""
    with contextlib.suppress(Exception):
        code, said = run(sandbox, program, timeout=40)
    if not said:
        wait_for(lambda: not sandbox.is_running(), what="the end of the sandbox")
        return True
    word, number = said.split()[:2]
    assert word == "refused", code
    assert int(number) < PROCESSES
    return False


HOG = """
import time
taken = []
for _ in range(20):
    taken.append(bytearray(b'x' * 50_000_000))
    time.sleep(0.05)
time.sleep(20)
"""


def test_a_program_that_takes_too_much_memory_bit_by_bit_is_killed(small: Sandbox) -> None:
    assert run(small, HOG)[0] in (137, -1)
    assert small.run_code(HOG).error is not None
    wait_for(lambda: answers(small))


MANY_HOGS = """
import os, signal, time
children = set()
for number in range(5):
    child = os.fork()
    if child == 0:
        kept = bytearray(b'x' * 200_000_000)
        time.sleep(20)
        os._exit(0)
    children.add(child)
ends = []
while children:
    child, end = os.wait()
    children.remove(child)
    ends.append(end)
    if ends.count(9) == 3:  # the others are within the limit, and may be left
        for other in children:
            os.kill(other, signal.SIGTERM)
print(ends.count(9), ends.count(15))
"""


def test_programs_that_want_too_much_memory_together_are_killed_one_by_one(
    small: Sandbox, limited: RunningManager
) -> None:
    _, said = run(small, MANY_HOGS, timeout=60)
    killed, left = map(int, said.split())
    assert killed >= 3
    assert killed + left == 5
    wait_for(lambda: answers(small))
    assert f"of {MEMORY} MiB of memory, and this process" in limited.log.read_text()


SLOW_DISK = """
import time
from kruise_agents.manager.runtime import bubblewrap
measured = bubblewrap.BubblewrapRuntime.disk_usage
def disk_usage(self, folder):
    while (folder / "rootfs/home/user/slow").exists():
        time.sleep(0.1)
    return measured(self, folder)
bubblewrap.BubblewrapRuntime.disk_usage = disk_usage
"""


def test_a_disk_that_takes_long_to_measure_keeps_nobodys_memory_from_being_held(tmp_path: Path) -> None:
    with running_manager(tmp_path, *LIMITS, prelude=SLOW_DISK) as manager, patch_e2b(False):
        options = {"domain": manager.domain, "api_key": manager.api_key}
        with Sandbox.create(**options) as slow, Sandbox.create(**options) as other:
            slow.commands.run("touch slow; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
            for sandbox in (other, slow):
                _, said = run(sandbox, MANY_HOGS, timeout=60)
                assert int(said.split()[0]) >= 3


TO_LOG = """
import glob, os
name = next(name for name in glob.glob('/proc/[0-9]*/fd/[12]') if os.path.realpath(name).endswith('/log'))
file = open(name, 'ab', buffering=0)
"""
"""A program that opens the log of its sandbox, which code can write to, and owns if there is one user."""


def test_the_log_of_a_sandbox_stays_short(small: Sandbox, limited: RunningManager) -> None:
    log = limited.folder_of(small.sandbox_id) / "log"
    run(small, TO_LOG + "file.write(b'x' * 79 + b'\\n')\nfile.write((b'x' * 79 + b'\\n') * 250_000)\n")
    wait_for(lambda: log.stat().st_size <= MOST_BYTES, what="the shortening of the log")
    wait_for(lambda: answers(small))


@pytest.fixture
def _open_files_can_be_looked_at(request: pytest.FixtureRequest) -> None:
    if os.geteuid() != 0 and request.node.callspec.params["limited"] == "several users":
        pytest.skip("the kernel shows an ordinary user nothing that is open in processes of the ids given to it")


@pytest.fixture
def _volumes_can_be_read(request: pytest.FixtureRequest) -> None:
    if os.geteuid() != 0 and request.node.callspec.params["limited"] == "several users":
        pytest.skip("an ordinary user cannot read the files of several users, so the API has no contents of volumes")


@pytest.mark.usefixtures("_open_files_can_be_looked_at")
def test_memory_in_files_without_a_name_counts(small: Sandbox) -> None:
    program = """
import os, time
for _ in range(12):
    file = os.memfd_create('x')
    os.write(file, b'x' * 50_000_000)
time.sleep(20)
print('kept')
"""
    small.files.write("program.py", program)
    with pytest.raises(CommandExitException) as caught:
        small.commands.run("exec python program.py", timeout=60)
    assert f"of {MEMORY} MiB of memory, and this process" in str(caught.value.error), "the one who is killed learns why"
    assert str(caught.value.error).startswith("signal: killed (the sandbox took")
    assert "kruise-agents: killed: the sandbox took" in str(caught.value), "and so does whoever reads the exception"
    wait_for(lambda: answers(small))


def test_nothing_in_memory_can_be_written_to_without_a_limit(shared_small: Sandbox) -> None:
    sizes = shared_small.commands.run("df -m --output=size,target /dev/shm | tail -1").stdout.split()
    assert int(sizes[0]) == MEMORY // 2
    for place in ("/dev", "/dev/pts"):
        with pytest.raises(CommandExitException):
            shared_small.commands.run(f"touch {place}/x", user="root")


FILLER = """
import os, time
end = time.monotonic() + 30
written = 0
try:
    while written < 40 and time.monotonic() < end:
        with open(f'/home/user/big{written}', 'wb') as file:
            file.write(b'x' * 8_000_000)
        written += 1
        if written > 7:  # from here on, somebody has to come and see
            time.sleep(0.25)
except OSError as error:
    print(error.strerror)
print(written)
"""


def test_a_disk_filler_is_refused_and_may_write_again_when_it_has_made_room(
    small: Sandbox, limited: RunningManager
) -> None:
    code, said = run(small, FILLER, timeout=60)
    assert (code, said.splitlines()[0]) == (0, "File too large")
    assert int(said.splitlines()[1]) < 40
    with pytest.raises(CommandExitException):
        small.commands.run("echo x > more")
    assert small.commands.run("cat program.py").stdout == FILLER
    small.commands.run("rm big*")
    wait_for(lambda: writes(small), what="the way back to writing")
    wait_for(lambda: answers(small))
    assert "writing is refused" in limited.log.read_text()


def writes(sandbox: Sandbox) -> bool:
    with contextlib.suppress(CommandExitException):
        sandbox.commands.run("echo x > more")
        return True
    return False


SUDDEN = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
for number in range(43):
    file = os.open(f'/home/user/sudden{{number}}', os.O_CREAT | os.O_WRONLY)
    assert libc.fallocate(file, 0, 0, {DISK * MIB}) == 0, os.strerror(ctypes.get_errno())
    os.close(file)
"""


def test_space_that_takes_no_processor_time_is_noticed(small: Sandbox, limited: RunningManager) -> None:
    with contextlib.suppress(Exception):  # the sandbox may be ended before the command has
        run(small, SUDDEN)
    folder = limited.folder_of(small.sandbox_id)
    wait_for(lambda: not folder.exists(), 40, what="the end of its folder")
    assert re.search(f"{small.sandbox_id} has written [0-9]+ of {DISK} MiB of files at once", limited.log.read_text())


def test_what_ended_programs_have_written_is_noticed(small: Sandbox, limited: RunningManager) -> None:
    small.commands.run("for i in 1 2 3 4 5 6 7 8 9 10; do head -c 16M /dev/zero > f$i; done || true")
    # Nothing runs in the sandbox now.
    wait_for(lambda: f"sandbox {small.sandbox_id} has " in limited.log.read_text(), 20, what="a look at the disk")


def test_a_log_that_code_closes_to_everybody_stops_no_look(small: Sandbox, limited: RunningManager) -> None:
    log = limited.folder_of(small.sandbox_id) / "log"
    run(small, TO_LOG + "file.write((b'x' * 79 + b'\\n') * 70_000)\nos.fchmod(file.fileno(), 0)\n")
    small.commands.run(f"for i in 1 2 3; do head -c {DISK // 3 + 4}M /dev/zero > big$i; done")
    wait_for(lambda: not writes(small), 20, what="the end of writing")
    wait_for(lambda: log.stat().st_size <= MOST_BYTES, what="the shortening of the log")
    with limited.api() as client:
        assert client.get(f"/sandboxes/{small.sandbox_id}/logs").status_code == 200


def test_no_file_is_larger_than_the_disk(shared_small: Sandbox) -> None:
    for command in (f"truncate -s {DISK + 1}M f", f"fallocate -l {DISK + 1}M f"):
        with pytest.raises(CommandExitException) as caught:
            shared_small.commands.run(command)
        assert caught.value.error == "signal: file size limit exceeded"
        assert "kruise-agents: ended: a file became larger than the disk limit" in str(caught.value)
    with pytest.raises(CommandExitException, match=r"unsupported|not supported"):
        shared_small.commands.run(f"fallocate --keep-size -l {DISK + 1}M f")
    shared_small.commands.run("head -c 1M /dev/urandom > f && fallocate --punch-hole -l 64K f")


@pytest.mark.usefixtures("_open_files_can_be_looked_at")
def test_files_without_a_name_count_as_disk(small: Sandbox, limited: RunningManager) -> None:
    program = """
import os, time
files = []
end = time.monotonic() + 30
try:
    while len(files) < 40 and time.monotonic() < end:
        files.append(os.open('/home/user', os.O_TMPFILE | os.O_RDWR))
        os.write(files[-1], b'x' * 8_000_000)
        if len(files) > 7:
            time.sleep(0.25)
except OSError as error:
    print(error.strerror)
"""
    assert run(small, program, timeout=60) == (0, "File too large\n")
    wait_for(lambda: writes(small), what="the way back to writing")


def test_who_goes_on_writing_when_it_was_refused_ends_the_sandbox(small: Sandbox, limited: RunningManager) -> None:
    program = """
import resource, time
end = time.monotonic() + 30
for number in range(100):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        with open(f'/home/user/big{number}', 'wb') as file:
            file.write(b'x' * 8_000_000)
    except OSError:
        pass
    time.sleep(0.1)
    if time.monotonic() > end:
        break
"""
    small.files.write("program.py", program)
    small.commands.run("python program.py", background=True)
    wait_for(lambda: not small.is_running(), 40, "the end of the sandbox")
    folder = limited.folder_of(small.sandbox_id)
    wait_for(lambda: not folder.exists(), what="the end of its folder")
    assert "goes on writing" in limited.log.read_text()


def test_folders_closed_to_others_count_as_disk(small: Sandbox, limited: RunningManager) -> None:
    small.commands.run(
        f"mkdir d && cd d && for i in 1 2 3; do head -c {DISK // 3 + 4}M /dev/zero > $i; done; cd .. && chmod 0 d"
    )
    wait_for(lambda: not writes(small), what="the end of writing")


def test_empty_files_count_too(small: Sandbox, limited: RunningManager) -> None:
    """A disk of that size has one inode for each 16 KiB. A sandbox with more files would take inodes from others."""
    program = """
import os, time
end = time.monotonic() + 40
for number in range(100):
    os.mkdir(f'd{number}')
    for name in range(500):
        open(f'd{number}/{name}', 'w').close()
    time.sleep(0.1)
    if time.monotonic() > end:
        break
"""
    small.files.write("program.py", program)
    small.commands.run("python program.py", background=True)
    wait_for(lambda: not small.is_running(), 40, "the end of the sandbox")
    wait_for(lambda: "goes on writing" in limited.log.read_text())


def test_a_volume_has_a_limit_of_its_own(limited: RunningManager) -> None:
    options: dict[str, Any] = {"domain": limited.domain, "api_key": limited.api_key}
    with patch_e2b(False):
        volume = Volume.create("filled", **options)
        with Sandbox.create(volume_mounts={"/v": volume}, **options) as sandbox:
            code, said = run(sandbox, FILLER.replace("/home/user", "/v"), timeout=60)
            assert (code, said.splitlines()[0]) == (0, "File too large")
            assert int(said.splitlines()[1]) < 40
            sandbox.commands.run("rm /v/big*")
            wait_for(lambda: writes(sandbox), what="the way back to writing")
        Volume.destroy(volume.volume_id, **options)
    assert f"files in volume {volume.volume_id}; writing is refused" in limited.log.read_text()


@pytest.mark.usefixtures("_volumes_can_be_read")
def test_a_volume_takes_no_more_over_the_api_either(limited: RunningManager) -> None:
    options: dict[str, Any] = {"domain": limited.domain, "api_key": limited.api_key}
    with patch_e2b(False):
        volume = Volume.create("filled", **options)
        volume.write_file("/first", b"x" * (DISK // 2 * MIB))
        for size in (DISK // 2 * MIB, DISK * MIB):
            with pytest.raises(Exception, match=f"has room for {DISK} MiB"):
                volume.write_file("/second", b"x" * size)
        assert [entry.name for entry in volume.list("/")] == ["first"]
        volume.remove("/first")
        volume.write_file("/second", b"x" * (DISK // 2 * MIB))
        Volume.destroy(volume.volume_id, **options)


def test_a_sandbox_has_its_processors_and_no_more(shared_small: Sandbox) -> None:
    assert shared_small.commands.run("nproc").stdout == "1\n"
    program = (
        "import os\nother = set(range(os.cpu_count())) - os.sched_getaffinity(0)\nos.sched_setaffinity(0, other or {0})"
    )
    code, said = run(shared_small, program)
    assert (code, said.splitlines()[-1]) == (1, "PermissionError: [Errno 1] Operation not permitted")


def test_limits_cannot_be_raised_from_inside(shared_small: Sandbox) -> None:
    program = """
import resource
for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE):
    hard = resource.getrlimit(kind)[1]
    assert hard != resource.RLIM_INFINITY
    try:
        resource.setrlimit(kind, (hard + 1, hard + 1))
        print('raised', kind)
    except (ValueError, PermissionError):
        pass
print('tried')
"""
    shared_small.files.write("program.py", program)
    for user in ("user", "root"):
        assert shared_small.commands.run("python /home/user/program.py", user=user).stdout == "tried\n"
    assert shared_small.run_code(program).logs.stdout == ["tried\n"]


def test_the_limits_are_those_that_the_api_tells(shared_small: Sandbox, limited: RunningManager) -> None:
    info = shared_small.get_info()
    assert (info.cpu_count, info.memory_mb) == (1, MEMORY)
    with limited.api() as client:
        assert client.get(f"/sandboxes/{shared_small.sandbox_id}").json()["diskSizeMB"] == DISK
    metrics = httpx.get(
        f"{limited.sandbox_url(shared_small.sandbox_id, 49983)}/metrics",
        headers={"X-Access-Token": str(shared_small._envd_access_token)},
    )
    assert metrics.json()["mem_total_mib"] == MEMORY


def test_what_enforces_them_is_told(limited: RunningManager) -> None:
    report = httpx.get(f"{limited.api_url}/health", headers={"Accept": "application/json"}).json()
    assert report["limits"] in ("rlimits", "cgroup v2")
