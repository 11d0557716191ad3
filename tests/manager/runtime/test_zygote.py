"""Sandboxes whose program and first kernel are forks of one process: nothing in them can tell, nor use it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from e2b import SandboxException
from e2b_code_interpreter import Sandbox

import kruise_agents
from support.managers import (
    API_KEY,
    NO_IDENTITIES,
    RunningManager,
    assert_ends,
    descendants,
    running_manager,
    wait_for,
)

pytestmark = [pytest.mark.needs("a zygote"), pytest.mark.usefixtures("patched")]
PACKAGE = Path(kruise_agents.__file__).parent
PROGRAMS = Path(__file__).parents[1] / "programs"
SECRET = "only-the-environment-of-the-manager-has-this"
WITH_SECRET = f"import os\nos.environ['SECRET'] = '{SECRET}'\n"


@contextlib.contextmanager
def manager_with(folder: Path, users: str, *options: str, prelude: str = "pass") -> Iterator[RunningManager]:
    prelude += NO_IDENTITIES if users == "one user" else ""
    with running_manager(folder, *options, prelude=prelude) as running:
        yield running


@pytest.fixture(scope="module")
def forking(users: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with manager_with(tmp_path_factory.mktemp("forking"), users, prelude=WITH_SECRET) as running:
        yield running


@pytest.fixture(scope="module")
def executing(users: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningManager]:
    with manager_with(tmp_path_factory.mktemp("executing"), users, "--no-prefork") as running:
        yield running


def created(manager: RunningManager, **options: Any) -> Sandbox:
    return Sandbox.create(domain=manager.domain, api_key=manager.api_key, **options)


def said(sandbox: Sandbox, code: str) -> str:
    execution = sandbox.run_code(code)
    assert execution.error is None, execution.error
    return "".join(execution.logs.stdout).strip()


def as_root(sandbox: Sandbox, program: str, *arguments: str) -> str:
    sandbox.files.write("/tmp/attempt.py", program)
    result = sandbox.commands.run(f"python /tmp/attempt.py {' '.join(arguments)}", user="root", timeout=60)
    return result.stdout.strip()


def another_zygote(folder: Path, program: str) -> str:
    """Return a prelude for a manager whose zygote is ``program``. ``REAL`` in the program is the real zygote's path."""
    path = folder / "another_zygote.py"
    found = f"import sys\nsys.path.append({str(PACKAGE.parent)!r})\n"
    real = f"REAL = {str(PACKAGE / 'sandbox' / 'zygote' / '__main__.py')!r}\n"
    path.write_text(found + real + program)
    imports = "from pathlib import Path\nimport kruise_agents.manager.runtime.zygote.process as z\n"
    return f"{imports}z._PROGRAM = Path({str(path)!r})\n"


def program_of(sandbox: Sandbox) -> str:
    return said(sandbox, "print(__import__('os').getppid())")


def normal(facts: Any) -> Any:
    """Without what differs between any two sandboxes: numbers of processes, names of folders, the id."""
    text = json.dumps(facts)
    text = re.sub(r"/tmp/k-\w+", "/tmp/k", text)
    text = re.sub(r"/(forking|executing)\d+/", "/manager/", text)
    text = re.sub(r'--parent(", "|\\u0000)\d+', "--parent N", text)
    return json.loads(re.sub(r"\b(i[a-z0-9]{15,}|[0-9a-f]{24})\b", "ID", text))


def shown_of_the_zygote(facts: dict[str, Any]) -> tuple[bool, bool]:
    """Take out what ``ps`` shows of a process, and return whether command line and environment are the zygote's."""
    return "zygote/__main__.py" in facts.pop("command line"), facts.pop("environ").startswith("HOME=/nonexistent\0")


def zygotes() -> set[int]:
    return {
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and "sandbox/zygote/__main__.py" in _command(int(entry.name))
    }


def zygote_of(manager: RunningManager) -> int | None:
    return next((pid for pid in zygotes() if _parent(pid) == manager.process.pid), None)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def is_forked(sandbox: Sandbox) -> bool:
    return re.search(r"zygote\S*\.py", sandbox.commands.run("ps axo args", user="root").stdout) is not None


HANGS = """
import runpy, sys, time
from pathlib import Path

import kruise_agents.sandbox.zygote.entry as entry

arrive = entry._leave_behind


def hang():
    if Path("/home/user/.local").exists():  # not in the trial
        time.sleep(1000)
    return arrive()


entry._ON_THE_WAY_SECONDS = 1
entry._leave_behind = hang
runpy.run_path(REAL, run_name="__main__")
"""
LINGERS = """
import os, runpy, sys, time

leave = os._exit


def linger(code):
    if sys._getframe(1).f_code.co_name == "_leave_behind":
        time.sleep(0.5)
    leave(code)


os._exit = linger
runpy.run_path(REAL, run_name="__main__")
"""
INSTALL = """
import importlib.util, pathlib, shutil, site
installed = pathlib.Path(site.getsitepackages()[0], "{name}")
shutil.copytree(pathlib.Path(importlib.util.find_spec("{name}").origin).parent, installed)
with (installed / "__init__.py").open("a") as file:
    file.write("\\nmine = 1\\n")
"""
"""As pip would do it: another release of a package that the manager has too."""


class TestLikeness:
    def test_a_forked_kernel_is_like_one_that_was_executed_but_for_what_ps_shows(
        self, forking: RunningManager, executing: RunningManager
    ) -> None:
        code = (PROGRAMS / "kernel_facts.py").read_text()
        found = []
        for manager in (forking, executing):
            with created(manager) as sandbox:
                found.append(normal(json.loads(said(sandbox, code))))
                assert is_forked(sandbox) == (manager is forking)
        forked, executed = found
        assert (shown_of_the_zygote(forked), shown_of_the_zygote(executed)) == ((True, True), (False, False))
        for fact, value in executed.items():
            if isinstance(value, dict):
                different = {key: (forked[fact].get(key), value.get(key)) for key in {*value, *forked[fact]}}
                different = {key: both for key, both in different.items() if both[0] != both[1]}
                assert not different, f"{fact}: {different}"
            else:
                assert forked[fact] == value, fact

    def test_a_forked_program_is_like_one_that_was_executed_but_for_what_ps_shows(
        self, forking: RunningManager, executing: RunningManager
    ) -> None:
        found = []
        for manager in (forking, executing):
            with created(manager) as sandbox:
                program = program_of(sandbox)
                text = as_root(sandbox, (PROGRAMS / "process_facts.py").read_text(), program)
                found.append(normal(json.loads(text)))
        forked, executed = found
        assert (shown_of_the_zygote(forked), shown_of_the_zygote(executed)) == ((True, True), (False, False))
        assert forked == executed

    def test_no_two_forks_draw_the_same_random_numbers(self, forking: RunningManager) -> None:
        code = (
            "import multiprocessing, random, secrets\n"
            "print(random.random(), secrets.token_hex(8), bytes(multiprocessing.current_process().authkey).hex())"
        )
        with created(forking) as one, created(forking) as other:
            assert not set(said(one, code).split()) & set(said(other, code).split())

    def test_what_a_user_installs_comes_before_what_the_zygote_has_imported(self, forking: RunningManager) -> None:
        with created(forking) as sandbox:
            for name in ("starlette", "dateutil"):
                said(sandbox, INSTALL.format(name=name))
            assert said(sandbox, "import starlette; print(starlette.mine)") == "1"
            sandbox.files.write("/home/user/mark", "")
            snapshot = sandbox.create_snapshot()
        try:
            with created(forking, template=snapshot.snapshot_id) as sandbox:
                assert said(sandbox, "import dateutil; print(dateutil.mine)") == "1"
                assert is_forked(sandbox)
        finally:
            Sandbox.delete_snapshot(snapshot.snapshot_id, domain=forking.domain, api_key=forking.api_key)

    def test_a_second_kernel_sees_what_was_installed_before_it(self, forking: RunningManager) -> None:
        with created(forking) as sandbox:
            said(sandbox, INSTALL.format(name="dateutil"))
            context = sandbox.create_code_context()
            assert sandbox.run_code("import dateutil; dateutil.mine", context=context).text == "1"


ATTEMPTS = """
import os, sys
for process in sys.argv[1:]:
    exe, mapped = f"/proc/{process}/exe", f"/proc/{process}/map_files"
    attempts = {
        "write": lambda: os.open(exe, os.O_WRONLY),
        "read and write": lambda: os.open(exe, os.O_RDWR),
        "truncate": lambda: os.truncate(exe, 0),
        "mode": lambda: os.chmod(exe, 0o4755),
        "owner": lambda: os.chown(exe, 1000, 1000),
        "times": lambda: os.utime(exe, (0, 0)),
        "attribute": lambda: os.setxattr(exe, "user.mark", b"1"),
        "write again": lambda: os.open(f"/proc/self/fd/{os.open(exe, os.O_PATH)}", os.O_WRONLY),
        "link": lambda: os.link(exe, "/tmp/linked", follow_symlinks=True),
        "mapped": lambda: os.open(f"{mapped}/{os.listdir(mapped)[0]}", os.O_RDONLY),
    }
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError:
            continue
        print("possible:", process, name)
"""
SEARCH = """
import re, sys
marks = [bytes.fromhex(word) for word in sys.argv[2:]]
found, read = set(), 0
with open(f"/proc/{sys.argv[1]}/maps") as maps, open(f"/proc/{sys.argv[1]}/mem", "rb", 0) as memory:
    for line in maps:
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if "r" not in line.split()[1] or "[v" in line:
            continue
        memory.seek(start)
        try:
            data = memory.read(end - start)
        except OSError:
            continue
        read += len(data)
        found |= {mark for mark in marks if mark in data}
print(read, *(mark.decode() for mark in found))
"""


class TestHarmlessness:
    def test_the_interpreter_of_a_forked_process_cannot_be_changed(self, forking: RunningManager) -> None:
        with created(forking) as sandbox:
            kernel = said(sandbox, "print(__import__('os').getpid())")
            assert as_root(sandbox, ATTEMPTS, program_of(sandbox), kernel) == ""

    def test_the_memory_of_forked_processes_has_nothing_of_the_manager(self, forking: RunningManager) -> None:
        marks = [API_KEY, SECRET, str(forking.state_dir), str(forking.log)]
        with created(forking) as sandbox:
            sandbox.files.write("/tmp/search.py", SEARCH)
            kernel = said(sandbox, "print(__import__('os').getpid())")
            for process in (program_of(sandbox), kernel):
                # A word that is there shows that the search finds what is there.
                words = " ".join(mark.encode().hex() for mark in ("uvicorn", *marks))
                answer = sandbox.commands.run(f"python /tmp/search.py {process} {words}", user="root", timeout=60)
                read, *found = answer.stdout.split()
                assert int(read) > 10_000_000
                assert found == ["uvicorn"]

    def test_the_zygote_has_nothing_that_is_worth_anything(self, forking: RunningManager) -> None:
        with created(forking):
            pid = zygote_of(forking)
            process = Path(f"/proc/{pid}")
            variables = process.joinpath("environ").read_text().split("\0")
            assert [one.partition("=")[0] for one in variables] == ["HOME", "PYTHONPATH", ""]
            assert len(list(process.joinpath("task").iterdir())) == 1
            open_files = sorted(str(entry.readlink()) for entry in process.joinpath("fd").iterdir())
            assert [re.sub(r"\d+", "N", name) for name in open_files] == [
                "/dev/null",
                "/dev/null",
                "/tmp/#N (deleted)",
                "socket:[N]",
            ]
            assert (process / "cwd").readlink() == Path("/")
            marks = [mark.encode().hex() for mark in ("uvicorn", API_KEY, SECRET, str(forking.state_dir))]
            done = subprocess.run(
                [sys.executable, "-c", SEARCH, str(pid), *marks], capture_output=True, text=True, check=True
            )
            assert done.stdout.split()[1:] == ["uvicorn"]

    def test_the_placeholder_can_be_neither_ended_nor_used_by_users_of_the_sandbox(
        self, forking: RunningManager, users: str
    ) -> None:
        if users == "one user":  # there it is the user's own, as the program is
            return
        attempt = """
import os
for attempt in (lambda: os.kill(2, 9), lambda: os.open("/proc/2/mem", os.O_RDWR), lambda: os.listdir("/proc/2/fd"),
                lambda: os.listdir("/proc/2/root"), lambda: os.readlink("/proc/2/exe")):
    try:
        attempt()
    except OSError:
        continue
    print("possible")
"""
        with created(forking) as sandbox:
            assert "\0placeholder\0" in sandbox.commands.run("cat /proc/2/cmdline", user="root").stdout
            assert as_root(sandbox, attempt) == ""


class TestItsEnd:
    def test_sandboxes_start_without_it_and_it_comes_back(self, tmp_path: Path) -> None:
        with running_manager(tmp_path) as manager:
            first = zygote_of(manager)
            assert first is not None
            with created(manager) as before:
                os.kill(first, signal.SIGKILL)
                wait_for(lambda: "Z" in Path(f"/proc/{first}/stat").read_text(), 10, "the end of the zygote")
                with created(manager) as sandbox:
                    assert sandbox.run_code("1 + 1").text == "2"
                    assert not is_forked(sandbox)
                assert before.run_code("1 + 1").text == "2"
            wait_for(lambda: zygote_of(manager) not in (None, first), 30, "another zygote")
            wait_for(lambda: _forks(manager), 30, "a sandbox that is forked again")
            assert manager.log.read_text().count("the zygote has ended") == 1

    def test_one_that_does_not_answer_is_replaced(self, tmp_path: Path) -> None:
        impatient = "import kruise_agents.manager.runtime.zygote.process as z\nz._ANSWER_SECONDS = 0.5\n"
        with running_manager(tmp_path, prelude=impatient) as manager:
            first = zygote_of(manager)
            assert first is not None
            os.kill(first, signal.SIGSTOP)
            with created(manager) as sandbox:
                assert sandbox.run_code("1 + 1").text == "2"
                assert not is_forked(sandbox)
            wait_for(lambda: zygote_of(manager) not in (None, first), 30, "another zygote")
            wait_for(lambda: _forks(manager), 30, "a sandbox that is forked again")
            assert "did not fork" in manager.log.read_text()

    def test_a_sandbox_that_waits_for_it_starts_without_it(self, tmp_path: Path) -> None:
        told = tmp_path / "told"
        telling = f"""
import pathlib
import kruise_agents.manager.runtime.zygote.process as z
is_readable = z.is_readable
z.is_readable = lambda *waited: (pathlib.Path({str(told)!r}).touch(), is_readable(*waited))[1]
"""
        with running_manager(tmp_path, prelude=telling) as manager, ThreadPoolExecutor() as threads:
            zygote = zygote_of(manager)
            assert zygote is not None
            told.unlink()
            os.kill(zygote, signal.SIGSTOP)
            waiting = threads.submit(created, manager)
            wait_for(told.exists, 10, "a manager that waits for the fork")
            os.kill(zygote, signal.SIGKILL)
            with waiting.result(30) as sandbox:
                assert sandbox.run_code("1 + 1").text == "2"
                assert not is_forked(sandbox)

    def test_when_there_can_be_no_other_one_for_a_while_there_is_one_later(self, tmp_path: Path) -> None:
        mark = tmp_path / "impossible"
        sometimes = f"""
import pathlib
import kruise_agents.manager.runtime.bubblewrap as b
import kruise_agents.manager.runtime.zygote.keeper as n
n._RETRY_SECONDS = 0
make = b.BubblewrapRuntime._make_zygote
def sometimes(self):
    if pathlib.Path({str(mark)!r}).exists():
        raise b.ZygoteError("a test says so")
    return make(self)
b.BubblewrapRuntime._make_zygote = sometimes
"""
        with running_manager(tmp_path, prelude=sometimes) as manager:
            first = zygote_of(manager)
            assert first is not None
            mark.touch()
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: not _forks(manager), 30, "the end of the zygote")
            wait_for(lambda: "a test says so" in manager.log.read_text(), 10, "a failure")
            mark.unlink()
            wait_for(lambda: _forks(manager), 30, "a sandbox that is forked again")

    def test_another_one_may_use_all_processors_of_the_manager(self, tmp_path: Path) -> None:
        with running_manager(tmp_path, "--cpus", "1") as manager:
            first = zygote_of(manager)
            assert first is not None
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: not _forks(manager), 30, "the end of the zygote")
            wait_for(lambda: zygote_of(manager) not in (None, first), 30, "another zygote")
            assert os.sched_getaffinity(zygote_of(manager) or 0) == os.sched_getaffinity(manager.process.pid)

    def test_it_ends_with_a_manager_that_is_killed(self, tmp_path: Path) -> None:
        with running_manager(tmp_path) as manager:
            zygote = zygote_of(manager)
            assert zygote is not None
            sandbox = created(manager)
            manager.process.kill()
            manager.process.wait()
            assert_ends([zygote])
        with running_manager(tmp_path) as manager:
            again = Sandbox.connect(sandbox.sandbox_id, domain=manager.domain, api_key=manager.api_key)
            assert again.run_code("1 + 1").text == "2"
            again.kill()

    def test_where_it_cannot_be_used_sandboxes_start_as_a_whole_and_the_log_says_why(self, tmp_path: Path) -> None:
        broken = another_zygote(tmp_path, "raise SystemExit('a test says so')")
        with running_manager(tmp_path, prelude=broken) as manager:
            for _ in range(2):
                with created(manager) as sandbox:
                    assert sandbox.run_code("1 + 1").text == "2"
            assert manager.log.read_text().count("a test says so") == 1

    def test_a_fork_that_does_not_arrive_in_its_sandbox_ends(self, tmp_path: Path) -> None:
        other = another_zygote(tmp_path, HANGS)
        with running_manager(tmp_path, prelude=other) as manager:
            with pytest.raises(SandboxException, match="the sandbox could not be started"):
                created(manager)
            wait_for(lambda: len(descendants(manager.process.pid)) == 1, 10, "nothing but the zygote")

    def test_a_fork_waits_until_it_belongs_to_the_first_process(self, tmp_path: Path) -> None:
        other = another_zygote(tmp_path, LINGERS)
        with running_manager(tmp_path, prelude=other) as manager, created(manager) as sandbox:
            assert is_forked(sandbox)
            program = program_of(sandbox)
            parent = f"cut -d' ' -f4 /proc/{program}/stat"
            wait_for(
                lambda: sandbox.commands.run(parent, user="root").stdout == "1\n", 10, "the end of the one between"
            )
            assert sandbox.get_metrics()[-1].mem_used > 0

    def test_a_program_that_ends_takes_its_sandbox_along(self, tmp_path: Path) -> None:
        with running_manager(tmp_path) as manager:
            sandbox = created(manager)
            program = program_of(sandbox)
            with contextlib.suppress(Exception):
                sandbox.commands.run(f"kill -9 {program}", user="root")
            wait_for(lambda: not list((manager.state_dir / "sandboxes").iterdir()), 10, "the end of the sandbox")


def _forks(manager: RunningManager) -> bool:
    with created(manager) as sandbox:
        return is_forked(sandbox)
