"""Examples from the SDK's documentation: commands, files, watching, terminals, git, contexts and streaming.

Run by pytest in an environment of an SDK, with the domain and the key of a manager in its environment; sync and async.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import queue
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from packaging.version import Version

from kruise_agents.patch_e2b import patch_e2b

patch_e2b(False)

from e2b import CommandExitException, NotFoundException, TimeoutException  # noqa: E402 - the order users are shown
from e2b.sandbox.commands.command_handle import PtySize  # noqa: E402 - the order users are shown
from e2b.sandbox.filesystem.filesystem import FileType, WriteEntry  # noqa: E402 - the order users are shown
from e2b.sandbox.filesystem.watch_handle import FilesystemEventType  # noqa: E402 - the order users are shown
from e2b_code_interpreter import AsyncSandbox, Sandbox  # noqa: E402 - the order users are shown

RELEASE = Version(importlib.metadata.version("e2b"))
CODE_INTERPRETER = Version(importlib.metadata.version("e2b-code-interpreter"))
needs_git = pytest.mark.skipif(Version("2.13.0") > RELEASE, reason="sandbox.git came with e2b 2.13.0")
needs_close_stdin = pytest.mark.skipif(Version("2.13.3") > RELEASE, reason="close_stdin came with e2b 2.13.3")
needs_stream_input = pytest.mark.skipif(Version("2.59.0") > RELEASE, reason="stream_input came with e2b 2.59.0")
needs_pty_connect = pytest.mark.skipif(Version("2.9.0") > RELEASE, reason="pty.connect came with e2b 2.9.0")
AUTHOR = {"author_name": "A U Thor", "author_email": "author@example.com"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Any]:
    with Sandbox.create() as running:
        yield running


class TestSync:
    def test_commands(self, sandbox: Any) -> None:
        result = sandbox.commands.run("echo hello; echo problem >&2")
        assert (result.stdout, result.stderr, result.exit_code) == ("hello\n", "problem\n", 0)
        with pytest.raises(CommandExitException) as raised:
            sandbox.commands.run("echo before; exit 3")
        assert (raised.value.exit_code, raised.value.stdout) == (3, "before\n")
        where = sandbox.commands.run("pwd; whoami; echo $A", cwd="/tmp", envs={"A": "a b"}, user="root")
        assert where.stdout.split("\n")[0] == "/tmp"
        assert where.stdout.endswith("a b\n")

    def test_streaming_commands(self, sandbox: Any) -> None:
        out: list[str] = []
        err: list[str] = []
        script = "for i in 1 2 3; do echo $i; echo -$i >&2; sleep 0.05; done"
        sandbox.commands.run(script, on_stdout=out.append, on_stderr=err.append)
        assert ("".join(out), "".join(err)) == ("1\n2\n3\n", "-1\n-2\n-3\n")

    def test_background_commands(self, sandbox: Any) -> None:
        command = sandbox.commands.run("read a; echo first $a; read b; echo second $b", background=True, stdin=True)
        listed = {process.pid: process for process in sandbox.commands.list()}
        assert listed[command.pid].cmd == "/bin/bash"
        sandbox.commands.send_stdin(command.pid, "one\n")
        assert next(iter(command))[0] == "first one\n"
        command.disconnect()
        again = sandbox.commands.connect(command.pid)
        sandbox.commands.send_stdin(command.pid, "two\n")
        assert again.wait().stdout == "second two\n"
        endless = sandbox.commands.run("sleep 600", background=True)
        assert sandbox.commands.kill(endless.pid) is True
        assert sandbox.commands.kill(endless.pid) is False
        with pytest.raises(CommandExitException):
            endless.wait()

    @needs_close_stdin
    def test_end_of_input(self, sandbox: Any) -> None:
        command = sandbox.commands.run("sort", background=True, stdin=True)
        sandbox.commands.send_stdin(command.pid, "b\na\n")
        sandbox.commands.close_stdin(command.pid)
        assert command.wait().stdout == "a\nb\n"

    @needs_stream_input
    def test_streamed_input(self, sandbox: Any) -> None:
        command = sandbox.commands.run("sort", background=True, stdin=True)
        sandbox.commands.stream_input(command.pid, iter(["b\n", b"a\n"]))
        sandbox.commands.close_stdin(command.pid)
        assert command.wait().stdout == "a\nb\n"

    def test_time_outs(self, sandbox: Any) -> None:
        with pytest.raises(TimeoutException):
            sandbox.commands.run("sleep 600", timeout=0.5)

    def test_files(self, sandbox: Any) -> None:
        files = sandbox.files
        info = files.write("/home/user/sync/hello.txt", "Hello, World!")
        assert (info.name, info.path) == ("hello.txt", "/home/user/sync/hello.txt")
        assert files.read("sync/hello.txt") == "Hello, World!"
        assert files.read("sync/hello.txt", format="bytes") == bytearray(b"Hello, World!")
        assert b"".join(files.read("sync/hello.txt", format="stream")) == b"Hello, World!"
        entries = [WriteEntry(path="sync/a", data="1"), WriteEntry(path="sync/b", data=b"\0\xff")]
        assert [one.name for one in files.write_files(entries)] == ["a", "b"]
        assert files.read("sync/b", format="bytes") == bytearray(b"\0\xff")
        assert files.make_dir("sync/folder") is True
        assert files.make_dir("sync/folder") is False
        assert files.rename("sync/a", "sync/folder/c").path == "/home/user/sync/folder/c"
        assert [one.path for one in files.list("sync", depth=2)] == [
            f"/home/user/sync/{name}" for name in ("b", "folder", "folder/c", "hello.txt")
        ]
        facts = files.get_info("sync/folder/c")
        assert (facts.type, facts.size, facts.permissions) == (FileType.FILE, 1, "-rw-r--r--")
        assert (facts.owner, facts.symlink_target) == ("user", None)
        files.remove("sync/folder")
        assert not files.exists("sync/folder")
        with pytest.raises(NotFoundException):
            files.read("sync/folder/c")

    def test_signed_urls(self, sandbox: Any) -> None:
        url = sandbox.upload_url("sync/up.txt", use_signature_expiration=60)
        assert httpx.post(url, files={"file": b"by URL"}).status_code == 200
        url = sandbox.download_url("sync/up.txt", use_signature_expiration=60)
        assert httpx.get(url).text == "by URL"

    def test_watching(self, sandbox: Any) -> None:
        sandbox.files.make_dir("watched/sub")
        handle = sandbox.files.watch_dir("/home/user/watched", recursive=True)
        sandbox.files.write("watched/sub/file", "1")
        sandbox.commands.run("rm watched/sub/file")
        seen = [(event.name, event.type) for event in handle.get_new_events()]
        assert ("sub/file", FilesystemEventType.WRITE) in seen
        assert seen[-1] == ("sub/file", FilesystemEventType.REMOVE)
        handle.stop()

    def test_terminals(self, sandbox: Any) -> None:
        terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
        sandbox.pty.resize(terminal.pid, PtySize(rows=30, cols=100))
        sandbox.pty.send_stdin(terminal.pid, b"stty size; echo $TERM; exit\n")
        shown: list[bytes] = []
        assert terminal.wait(on_pty=shown.append).exit_code == 0
        assert b"30 100\r\nxterm-256color\r\n" in b"".join(shown)
        other = sandbox.pty.create(PtySize(rows=24, cols=80))
        assert sandbox.pty.kill(other.pid) is True

    @needs_pty_connect
    def test_a_terminal_is_joined_again(self, sandbox: Any) -> None:
        terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
        terminal.disconnect()
        again = sandbox.pty.connect(terminal.pid)
        sandbox.pty.send_stdin(terminal.pid, b"echo $LANG-$((1+1)); exit\n")
        shown: list[bytes] = []
        again.wait(on_pty=shown.append)
        assert b"-2\r\n" in b"".join(shown)

    @needs_git
    def test_git(self, sandbox: Any) -> None:
        git = sandbox.git
        git.init("/home/user/origin.git", bare=True, initial_branch="main")
        git.clone("/home/user/origin.git", path="/home/user/work")
        sandbox.files.write("work/README.md", "# Hello\n")
        git.add("/home/user/work")
        git.commit("/home/user/work", "First", **AUTHOR)
        git.push("/home/user/work", remote="origin", branch="main")
        git.create_branch("/home/user/work", "feature")
        sandbox.files.write("work/README.md", "# Changed\n")
        status = git.status("/home/user/work")
        assert (status.current_branch, [one.name for one in status.file_status]) == ("feature", ["README.md"])
        git.add("/home/user/work", files=["README.md"])
        git.commit("/home/user/work", "Second", **AUTHOR)
        git.push("/home/user/work", remote="origin", branch="feature")
        branches = git.branches("/home/user/work")
        assert (sorted(branches.branches), branches.current_branch) == (["feature", "main"], "feature")
        git.checkout_branch("/home/user/work", "main")
        assert sandbox.files.read("work/README.md") == "# Hello\n"
        git.clone("/home/user/origin.git", path="/home/user/second", branch="feature", depth=1)
        assert sandbox.files.read("second/README.md") == "# Changed\n"

    def test_contexts(self, sandbox: Any) -> None:
        one = sandbox.create_code_context(cwd="/tmp")
        two = sandbox.create_code_context()
        sandbox.run_code("x = 1", context=one)
        assert sandbox.run_code("import os; (x, os.getcwd())", context=one).text == "(1, '/tmp')"
        error = sandbox.run_code("x", context=two).error
        assert (error.name, error.value) == ("NameError", "name 'x' is not defined")
        if hasattr(sandbox, "list_code_contexts"):
            assert {one.id, two.id} <= {context.id for context in sandbox.list_code_contexts()}
            sandbox.restart_code_context(one)
            assert sandbox.run_code("x", context=one).error.name == "NameError"
            sandbox.remove_code_context(two)

    def test_streaming_code(self, sandbox: Any) -> None:
        seen: list[tuple[str, str]] = []
        execution = sandbox.run_code(
            "import sys\nprint('out')\nprint('err', file=sys.stderr)\nraise ValueError('no')",
            on_stdout=lambda message: seen.append(("out", message.line)),
            on_stderr=lambda message: seen.append(("err", message.line)),
            on_error=lambda error: seen.append(("error", error.name)),
        )
        assert seen == [("out", "out\n"), ("err", "err\n"), ("error", "ValueError")]
        assert execution.error.value == "no"
        results: list[Any] = []
        assert sandbox.run_code("6 * 7", envs={"A": "1"}, on_result=results.append).text == "42"
        assert [result.text for result in results] == ["42"]


Example = Callable[[Any], Awaitable[None]]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """Yield one event loop for all tests, because old SDKs keep connections that belong to their loop."""
    with asyncio.Runner() as running:
        yield running


@asynccontextmanager
async def opened() -> AsyncIterator[Any]:
    sandbox = await AsyncSandbox.create()
    async with sandbox:
        yield sandbox


async def commands(sandbox: Any) -> None:
    result = await sandbox.commands.run("echo hello; echo problem >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("hello\n", "problem\n", 0)
    with pytest.raises(CommandExitException) as raised:
        await sandbox.commands.run("echo before; exit 3")
    assert (raised.value.exit_code, raised.value.stdout) == (3, "before\n")
    results = await asyncio.gather(*(sandbox.commands.run(f"echo {number}") for number in range(20)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(20)]


async def streaming_commands(sandbox: Any) -> None:
    out: list[str] = []

    async def note(text: str) -> None:
        out.append(text)

    await sandbox.commands.run("for i in 1 2 3; do echo $i; sleep 0.05; done", on_stdout=note)
    assert "".join(out) == "1\n2\n3\n"


async def background_commands(sandbox: Any) -> None:
    command = await sandbox.commands.run("read a; echo first $a", background=True, stdin=True)
    assert command.pid in [process.pid for process in await sandbox.commands.list()]
    again = await sandbox.commands.connect(command.pid)
    await sandbox.commands.send_stdin(command.pid, "one\n")
    assert (await command.wait()).stdout == (await again.wait()).stdout == "first one\n"
    endless = await sandbox.commands.run("sleep 600", background=True)
    assert await endless.kill() is True
    with pytest.raises(CommandExitException):
        await endless.wait()


async def streamed_input(sandbox: Any) -> None:
    command = await sandbox.commands.run("sort", background=True, stdin=True)
    async with sandbox.commands.stream_input(command.pid) as stream:
        await stream.send("b\n")
        await stream.send("a\n")
    await sandbox.commands.close_stdin(command.pid)
    assert (await command.wait()).stdout == "a\nb\n"


async def time_outs(sandbox: Any) -> None:
    with pytest.raises(TimeoutException):
        await sandbox.commands.run("sleep 600", timeout=0.5)


async def files(sandbox: Any) -> None:
    await sandbox.files.write("async/hello.txt", "Hello, World!")
    assert await sandbox.files.read("async/hello.txt") == "Hello, World!"
    stream = await sandbox.files.read("async/hello.txt", format="stream")
    assert b"".join([piece async for piece in stream]) == b"Hello, World!"
    await sandbox.files.write_files([WriteEntry(path="async/a", data="1"), WriteEntry(path="async/b", data=b"2")])
    await sandbox.files.rename("async/a", "async/folder/c")
    names = [one.name for one in await sandbox.files.list("async", depth=2)]
    assert names == ["b", "folder", "c", "hello.txt"]
    await sandbox.files.remove("async/folder")
    assert not await sandbox.files.exists("async/folder/c")


async def watching(sandbox: Any) -> None:
    await sandbox.files.make_dir("watched/deep")
    events: asyncio.Queue[Any] = asyncio.Queue()
    handle = await sandbox.files.watch_dir("watched", on_event=events.put, recursive=True)
    await sandbox.files.write("watched/deep/file", "1")
    seen = []
    while ("deep/file", FilesystemEventType.WRITE) not in seen:
        event = await asyncio.wait_for(events.get(), 20)
        seen.append((event.name, event.type))
    assert seen[0] == ("deep/file", FilesystemEventType.CREATE)
    await handle.stop()


async def terminals(sandbox: Any) -> None:
    shown: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    terminal = await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=shown.put)
    await sandbox.pty.resize(terminal.pid, PtySize(rows=30, cols=100))
    await sandbox.pty.send_stdin(terminal.pid, b"stty size; exit\n")
    assert (await terminal.wait()).exit_code == 0
    assert b"30 100\r\n" in b"".join(shown.get() for _ in range(shown.qsize()))


async def git(sandbox: Any) -> None:
    await sandbox.git.init("/home/user/origin.git", bare=True, initial_branch="main")
    await sandbox.git.clone("/home/user/origin.git", path="/home/user/work")
    await sandbox.files.write("work/README.md", "# Hello\n")
    await sandbox.git.add("/home/user/work")
    await sandbox.git.commit("/home/user/work", "First", **AUTHOR)
    await sandbox.git.push("/home/user/work", remote="origin", branch="main")
    await sandbox.git.create_branch("/home/user/work", "feature")
    branches = await sandbox.git.branches("/home/user/work")
    assert (sorted(branches.branches), branches.current_branch) == (["feature", "main"], "feature")
    assert (await sandbox.git.status("/home/user/work")).is_clean


async def contexts(sandbox: Any) -> None:
    one, two = await sandbox.create_code_context(cwd="/tmp"), await sandbox.create_code_context()
    await asyncio.gather(sandbox.run_code("x = 1", context=one), sandbox.run_code("x = 2", context=two))
    found = await asyncio.gather(*(sandbox.run_code("x", context=context) for context in (one, two)))
    assert [execution.text for execution in found] == ["1", "2"]


async def streaming_code(sandbox: Any) -> None:
    lines: list[str] = []
    results: list[Any] = []
    code = "for i in range(3): print(i)\ni"
    await sandbox.run_code(code, on_stdout=lambda message: lines.append(message.line), on_result=results.append)
    assert "".join(lines) == "0\n1\n2\n"
    assert [result.text for result in results] == ["2"]


@pytest.mark.parametrize(
    "example",
    [
        commands,
        streaming_commands,
        background_commands,
        pytest.param(streamed_input, marks=needs_stream_input),
        time_outs,
        files,
        watching,
        terminals,
        pytest.param(git, marks=needs_git),
        contexts,
        streaming_code,
    ],
)
def test_async(example: Example, runner: asyncio.Runner) -> None:
    async def run() -> None:
        async with opened() as sandbox:
            await example(sandbox)

    runner.run(run())
