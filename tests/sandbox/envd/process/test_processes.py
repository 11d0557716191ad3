"""Commands: how they start, what they see, and how they end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import resource
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b import CommandExitException, InvalidArgumentException, NotFoundException, Sandbox, TimeoutException
from e2b.sandbox.commands.command_handle import PtySize
from starlette.datastructures import Headers

from kruise_agents.sandbox.connect import Call
from kruise_agents.sandbox.connect.framing import Envelope, EnvelopeDecoder
from kruise_agents.sandbox.envd.keepalive import keepalive_interval
from kruise_agents.sandbox.envd.process import registry

pytestmark = pytest.mark.live
STREAM = {"content-type": "application/connect+json"}


def rpc(served: Any, method: str, **request: Any) -> httpx.Response:
    return httpx.post(f"{served.url}/process.Process/{method}", json=request)


def start(served: Any, request: dict[str, Any], method: str = "Start", **headers: str) -> list[tuple[int, Any]]:
    """Call a streaming method and return all frames."""
    body = Envelope(0, json.dumps(request).encode()).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"{served.url}/process.Process/{method}"
    reply = httpx.post(url, content=body, headers=STREAM | named, timeout=30)
    return [(frame.flags, json.loads(frame.payload)) for frame in EnvelopeDecoder().feed(reply.content)]


def shell(command: str, **more: Any) -> dict[str, Any]:
    return {"process": {"cmd": "/bin/bash", "args": ["-c", command]}, "stdin": False, **more}


def end_of(frames: list[tuple[int, Any]]) -> dict[str, Any]:
    assert frames[-1] == (2, {})
    return frames[-2][1]["event"]["end"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("command", "end"),
    [
        ("true", {"exitCode": 0, "exited": True, "status": "exit status 0"}),
        (
            "exit 3",
            {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"},
        ),
        (
            "kill -KILL $$",
            {"exitCode": -1, "exited": False, "status": "signal: killed", "error": "signal: killed"},
        ),
        (
            "kill -TERM $$",
            {"exitCode": -1, "exited": False, "status": "signal: terminated", "error": "signal: terminated"},
        ),
    ],
)
def test_the_end_says_how(command: str, end: dict[str, Any], served_envd: Any) -> None:
    frames = start(served_envd, shell(command))
    assert end_of(frames) == end
    assert set(frames[0][1]["event"]) == {"start"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("HUP", "hangup"), ("INT", "interrupt"), ("ILL", "illegal instruction")),
        *(("ABRT", "aborted"), ("BUS", "bus error"), ("FPE", "floating point exception")),
        *(("SEGV", "segmentation fault"), ("PIPE", "broken pipe"), ("ALRM", "alarm clock")),
        *(("USR1", "user defined signal 1"), ("XCPU", "CPU time limit exceeded"), ("IO", "I/O possible")),
        *(("SYS", "bad system call"), ("RTMIN", "signal 34"), ("RTMAX", "signal 64")),
    ],
)
def test_every_signal_has_the_name_that_go_gives_it(name: str, text: str, served_envd: Any) -> None:
    frames = start(served_envd, shell(f"ulimit -c 0; kill -{name} $$; sleep 60"))
    status = f"signal: {text}"
    assert end_of(frames) == {"exitCode": -1, "exited": False, "status": status, "error": status}


@pytest.mark.skipif(
    not Path("/proc/sys/kernel/core_pattern").read_text().startswith("core")
    or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0,
    reason="core dumps are not written into the working directory here",
)
def test_a_core_dump_is_told(served_envd: Any) -> None:
    frames = start(served_envd, shell("ulimit -c $(ulimit -H -c); kill -SEGV $$"))
    assert end_of(frames)["status"] == "signal: segmentation fault (core dumped)"
    assert [one.name.partition(".")[0] for one in served_envd.home.iterdir()] == ["core"]


def test_the_sdk_raises_for_a_code_that_is_not_zero(sandbox: Sandbox) -> None:
    with pytest.raises(CommandExitException) as raised:
        sandbox.commands.run("echo out; echo err >&2; exit 7")
    assert (raised.value.exit_code, raised.value.stdout, raised.value.stderr) == (7, "out\n", "err\n")
    assert raised.value.error == "exit status 7"


@pytest.mark.parametrize(
    ("command", "code", "text"), [("no-such-program", 127, "not found"), ("./file", 126, "denied")]
)
def test_a_missing_program_is_the_shells_affair(
    command: str, code: int, text: str, served_envd: Any, sandbox: Sandbox
) -> None:
    (served_envd.home / "file").write_text("x")
    frames = start(served_envd, {"process": {"cmd": command}})
    assert end_of(frames)["exitCode"] == code
    assert "stderr" in frames[1][1]["event"]["data"]
    with pytest.raises(CommandExitException) as raised:
        sandbox.commands.run(command)
    assert raised.value.exit_code == code
    assert text in raised.value.stderr


def test_a_script_without_a_first_line_runs(served_envd: Any) -> None:
    script = served_envd.home / "script"
    script.write_text("exit $1")
    script.chmod(0o755)
    assert end_of(start(served_envd, {"process": {"cmd": "./script", "args": ["5"]}}))["exitCode"] == 5


@pytest.mark.parametrize(
    "process", [{"cmd": "a\0b"}, {"cmd": "true", "args": ["x" * 3_000_000]}, {"cmd": "true", "envs": {"a=b": "c"}}]
)
def test_what_cannot_be_started_is_invalid(process: dict[str, Any], served_envd: Any) -> None:
    [(flags, end)] = start(served_envd, {"process": process})
    assert (flags, end["error"]["code"]) == (2, "invalid_argument")
    assert end["error"]["message"].startswith(f"error starting process '{process['cmd']}': ")


def test_what_cannot_be_started_in_a_terminal_is_invalid(served_envd: Any) -> None:
    request = {"process": {"cmd": "true", "args": ["x", "a\0b"]}, "pty": {"size": {"cols": 80, "rows": 24}}}
    [(flags, end)] = start(served_envd, request)
    assert (flags, end["error"]["code"]) == (2, "invalid_argument")
    assert end["error"]["message"].startswith("error starting pty with command 'true x a\0b': ")


def test_nothing_to_start_is_invalid(served_envd: Any) -> None:
    assert start(served_envd, {})[0][1]["error"]["code"] == "invalid_argument"


def test_the_environment_is_exactly_the_sandboxs(
    served_envd: Any, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED", "no")
    served_envd.state.variables = {"A": "sandbox", "B": "sandbox", "HOME": str(served_envd.home)}
    frames = start(served_envd, {"process": {"cmd": "env", "envs": {"B": "call", "EMPTY": "", "LINES": "1\n=2"}}})
    served_envd.state.variables = {"A": "later"}
    output = base64.b64decode(frames[1][1]["event"]["data"]["stdout"]).decode()
    assert sorted(output.splitlines()) == sorted(
        [
            f"PATH={served_envd.state.path}",
            f"HOME={served_envd.home}",
            "USER=user",
            "LOGNAME=user",
            "A=sandbox",
            "B=call",
            "EMPTY=",
            "LINES=1",
            "=2",
        ]
    )
    assert sandbox.commands.run("echo $A").stdout == "later\n"


def test_the_folder_is_home_unless_named(sandbox: Sandbox, served_envd: Any, tmp_path: Path) -> None:
    (served_envd.home / "sub").mkdir()
    for cwd, folder in [
        (None, served_envd.home),
        ("sub", served_envd.home / "sub"),
        ("~/sub", served_envd.home / "sub"),
        (str(tmp_path), tmp_path),
    ]:
        assert sandbox.commands.run("pwd", cwd=cwd).stdout == f"{folder}\n"


def test_a_missing_folder_is_named(sandbox: Sandbox, served_envd: Any) -> None:
    with pytest.raises(InvalidArgumentException, match=f"cwd '{served_envd.home}/none' does not exist"):
        sandbox.commands.run("pwd", cwd="none")
    with pytest.raises(InvalidArgumentException, match=f"cwd '{served_envd.home}/{'x' * 300}': file name too long"):
        sandbox.commands.run("pwd", cwd="x" * 300)
    (served_envd.home / "file").write_text("x")
    with pytest.raises(InvalidArgumentException, match=r"error starting process '/bin/bash': .*/file: not a directory"):
        sandbox.commands.run("pwd", cwd="file")


def test_a_folder_that_cannot_be_reached_or_written_down_is_no_working_directory(
    locked: Path, served_envd: Any
) -> None:
    for cwd, code, text in [
        (f"{locked}/below", "invalid_argument", f"cwd '{locked}/below': permission denied"),
        ("a\ud83d", "invalid_argument", r"failed to expand path 'a\ud83d' for user 'user': invalid argument"),
    ]:
        request = {"process": {"cmd": "pwd", "cwd": cwd}}
        assert start(served_envd, request)[-1] == (2, {"error": {"code": code, "message": text}})


def test_files_of_commands_are_0644_and_only_three_descriptors_are_open(sandbox: Sandbox, served_envd: Any) -> None:
    assert sandbox.commands.run("touch f; ls /proc/self/fd | wc -l").stdout == "4\n"  # and that of ls
    assert (served_envd.home / "f").stat().st_mode & 0o777 == 0o644


def test_commands_go_first_when_memory_runs_out(sandbox: Sandbox) -> None:
    """This includes commands in terminals, and commands that a shell starts at once. The serving process goes later."""
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    for _ in range(20):
        assert sandbox.commands.run("(cat /proc/self/oom_score_adj)").stdout == "100\n"
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=20)
    sandbox.pty.send_stdin(terminal.pid, b"cat /proc/self/oom_score_adj; exit\n")
    shown: list[bytes] = []
    terminal.wait(on_pty=shown.append)
    assert b"100\r\n" in b"".join(shown)
    assert Path("/proc/self/oom_score_adj").read_text().strip() == own


def test_a_timeout_kills_the_process(sandbox: Sandbox, wait_until: Callable[..., None]) -> None:
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 6000", timeout=0.5)
    wait_until(lambda: sandbox.commands.list() == [])


def test_the_server_ends_a_stream_at_its_deadline_by_itself(served_envd: Any, wait_until: Callable[..., None]) -> None:
    """SDKs before 2.35 rely on this. A child that holds the pipe does not delay the end of the stream."""
    frames = start(served_envd, shell("sleep 60 & sleep 60"), connect_timeout_ms="200.0")
    assert frames[-1] == (
        2,
        {"error": {"code": "deadline_exceeded", "message": "context deadline exceeded"}},
    )
    pid = frames[0][1]["event"]["start"]["pid"]
    wait_until(lambda: not alive(pid))
    wait_until(lambda: rpc(served_envd, "List").json() == {"processes": []})


def test_no_timeout_is_no_timeout(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("sleep 0.2; echo done", timeout=0).stdout == "done\n"


def test_kill_ends_a_command(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("sleep 60", background=True)
    assert handle.kill() is True
    with pytest.raises(CommandExitException) as raised:
        handle.wait()
    assert (raised.value.exit_code, raised.value.error) == (-1, "signal: killed")
    assert not alive(handle.pid)
    assert sandbox.commands.kill(handle.pid) is False
    assert sandbox.commands.kill(2**30) is False


def test_kill_returns_when_the_process_is_gone(sandbox: Sandbox) -> None:
    for _ in range(20):
        handle = sandbox.commands.run("exec sleep 600", background=True)
        assert sandbox.commands.kill(handle.pid) is True
        assert not alive(handle.pid)
        assert sandbox.commands.kill(handle.pid) is False
        assert sandbox.commands.list() == []


def test_kill_does_not_wait_for_others_that_hold_the_pipes(sandbox: Sandbox, wait_until: Callable[..., None]) -> None:
    handle = sandbox.commands.run("sleep 60 & echo $!; sleep 60", background=True)
    child = next(int(out) for out, _, _ in handle if out)
    assert sandbox.commands.kill(handle.pid)
    with pytest.raises(CommandExitException):
        handle.wait()
    assert alive(child), "only the one process is killed"
    os.kill(child, 9)


def test_the_end_waits_for_a_child_that_writes_on(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("(sleep 0.3; echo late) & echo early").stdout == "early\nlate\n"


def test_a_command_that_only_waits_for_its_children_can_be_killed(
    sandbox: Sandbox, wait_until: Callable[..., None]
) -> None:
    handle = sandbox.commands.run("sleep 60 & exit 4", background=True)
    wait_until(lambda: not alive(handle.pid))
    assert [process.pid for process in sandbox.commands.list()] == [handle.pid]
    assert sandbox.commands.kill(handle.pid) is True
    with pytest.raises(CommandExitException) as raised:
        handle.wait()
    assert raised.value.exit_code == 4


def test_sigterm_may_be_handled(served_envd: Any, sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("trap 'echo bye; exit 9' TERM; echo ready; read", background=True, stdin=True)
    assert next(out for out, _, _ in handle) == "ready\n"
    reply = rpc(served_envd, "SendSignal", process={"pid": handle.pid}, signal="SIGNAL_SIGTERM")
    assert (reply.status_code, reply.json()) == (200, {})
    with pytest.raises(CommandExitException) as raised:
        handle.wait()
    assert (raised.value.exit_code, raised.value.stdout) == (9, "ready\nbye\n")


@pytest.mark.parametrize("signal", ["SIGNAL_UNSPECIFIED", 0, 2, "SIGNAL_SIGHUP"])
def test_other_signals_are_refused(signal: Any, served_envd: Any, sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("sleep 60", background=True)
    reply = rpc(served_envd, "SendSignal", process={"pid": handle.pid}, signal=signal)
    assert reply.status_code == 501
    assert reply.json()["message"].startswith("invalid signal: ")


def test_the_list_has_what_was_asked_for(served_envd: Any, sandbox: Sandbox) -> None:
    assert sandbox.commands.list() == []
    handle = sandbox.commands.run("sleep 60", background=True, envs={"A": "1"}, cwd="/tmp")
    [process] = sandbox.commands.list()
    assert (process.pid, process.cmd, process.args) == (handle.pid, "/bin/bash", ["-l", "-c", "sleep 60"])
    assert (process.envs, process.cwd, process.tag) == ({"A": "1"}, "/tmp", None)


@pytest.mark.parametrize("method", ["Connect", "SendInput", "CloseStdin", "SendSignal", "Update"])
def test_selectors_that_lead_nowhere(method: str, served_envd: Any) -> None:
    def answer(selector: dict[str, Any]) -> tuple[str, str]:
        request = {"process": selector, "input": {"stdin": ""}, "signal": 9}
        if method == "Connect":
            reply = start(served_envd, request, method)[0][1]["error"]
        else:
            reply = rpc(served_envd, method, **request).json()
        return reply["code"], reply["message"]

    assert answer({"pid": 999999999}) == ("not_found", "process with pid 999999999 not found")
    assert answer({"tag": "t"}) == ("not_found", "process with tag t not found")
    assert answer({})[0] == "unimplemented"


def test_a_tag_names_a_process(served_envd: Any, wait_until: Callable[..., None]) -> None:
    frames: list[Any] = []
    request = shell("sleep 60", tag="mine")
    thread = threading.Thread(target=lambda: frames.extend(start(served_envd, request)))
    thread.start()
    wait_until(lambda: bool(rpc(served_envd, "List").json()["processes"]))
    [process] = rpc(served_envd, "List").json()["processes"]
    assert process["tag"] == "mine"
    assert rpc(served_envd, "SendSignal", process={"tag": "mine"}, signal=9).status_code == 200
    thread.join()
    assert end_of(frames)["status"] == "signal: killed"
    again = start(served_envd, {"process": {"tag": "mine"}}, "Connect")
    assert [set(event["event"]) for _, event in again[:-1]] == [{"start"}, {"end"}]


def test_a_new_process_makes_its_tag_forget_the_old_one(served_envd: Any, wait_until: Callable[..., None]) -> None:
    first = start(served_envd, shell("exit 1", tag="t"))[0][1]["event"]["start"]["pid"]
    assert end_of(start(served_envd, {"process": {"pid": first}}, "Connect"))["exitCode"] == 1
    start(served_envd, shell("exit 2", tag="t"))
    assert end_of(start(served_envd, {"process": {"tag": "t"}}, "Connect"))["exitCode"] == 2
    assert start(served_envd, {"process": {"pid": first}}, "Connect")[0][1]["error"]["code"] == "not_found"


def test_a_client_that_goes_does_not_end_the_process(sandbox: Sandbox, served_envd: Any) -> None:
    handle = sandbox.commands.run("read x; echo got $x > f", background=True, stdin=True)
    handle.disconnect()
    again = sandbox.commands.connect(handle.pid)
    sandbox.commands.send_stdin(handle.pid, "it\n")
    assert again.wait().exit_code == 0
    assert (served_envd.home / "f").read_text() == "got it\n"


def test_everybody_gets_everything_from_their_beginning_on(sandbox: Sandbox) -> None:
    first = sandbox.commands.run("read x; echo $x; read x; echo $x", background=True, stdin=True)
    second = sandbox.commands.connect(first.pid)
    sandbox.commands.send_stdin(first.pid, "one\n")
    assert next(out for out, _, _ in first) == "one\n"
    third = sandbox.commands.connect(first.pid)
    sandbox.commands.send_stdin(first.pid, "two\n")
    assert [handle.wait().stdout for handle in (second, third)] == ["one\ntwo\n", "two\n"]
    assert first.wait().stdout == "one\ntwo\n"


def test_connecting_right_after_the_end_still_tells_the_end(sandbox: Sandbox) -> None:
    handle = sandbox.commands.run("exit 5", background=True)
    with pytest.raises(CommandExitException):
        handle.wait()
    with pytest.raises(CommandExitException) as raised:
        sandbox.commands.connect(handle.pid).wait()
    assert raised.value.exit_code == 5
    with pytest.raises(NotFoundException, match="process with pid 999999999 not found"):
        sandbox.commands.connect(999999999)


def test_the_end_is_remembered_for_a_while_only(
    sandbox: Sandbox, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry._REMEMBERED_SECONDS == 30
    monkeypatch.setattr(registry, "_REMEMBERED_SECONDS", 0.05)
    handle = sandbox.commands.run("true", background=True)
    assert handle.wait().exit_code == 0

    def forgotten() -> bool:
        try:
            sandbox.commands.connect(handle.pid).wait()
        except NotFoundException:
            return True
        return False

    wait_until(forgotten)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [({"keepalive-ping-interval": "50"}, 50.0), ({"keepalive-ping-interval": "0.5"}, 0.5)]
    + [({"keepalive-ping-interval": "0.000001"}, 0.1)]
    + [({"keepalive-ping-interval": value}, 90.0) for value in ("", "0", "-1", "often", "inf", "nan")]
    + [({}, 90.0)],
)
def test_the_interval_of_keepalives_is_the_clients_or_90_seconds(header: dict[str, str], seconds: float) -> None:
    assert keepalive_interval(Call(Headers(header), None)) == seconds


def test_messages_may_come_in_chunks(served_envd: Any) -> None:
    """SDKs from 2.35 on send streams without a length."""
    url = f"{served_envd.url}/process.Process"
    assert httpx.post(
        f"{url}/List", content=iter([b"{", b"}"]), headers={"content-type": "application/json"}
    ).json() == {"processes": []}
    body = Envelope(0, json.dumps(shell("echo x")).encode()).encode()
    reply = httpx.post(f"{url}/Start", content=(bytes([byte]) for byte in body), headers=STREAM)
    assert b'"exitCode":0' in reply.content


def test_silence_is_filled_with_keepalives(served_envd: Any) -> None:
    frames = start(served_envd, shell("sleep 0.5"), keepalive_ping_interval="0.1")
    assert (0, {"event": {"keepalive": {}}}) in frames
    assert {"keepalive"} not in [set(frame["event"]) for _, frame in start(served_envd, shell("true"))[:-1]]


def test_output_puts_a_keepalive_off(served_envd: Any) -> None:
    frames = start(served_envd, shell("for i in 1 2 3 4 5; do echo; sleep 0.5; done"), keepalive_ping_interval="2")
    assert (0, {"event": {"keepalive": {}}}) not in frames
    assert end_of(frames)["exited"]


def test_a_hundred_commands_at_once(sandbox: Sandbox) -> None:
    def run(number: int) -> str:
        return sandbox.commands.run(f"echo {number}", timeout=120).stdout

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(run, range(100))) == [f"{number}\n" for number in range(100)]
    assert sandbox.commands.list() == []


def test_the_async_sdk_works_as_well(served_envd: Any) -> None:
    async def main() -> list[str]:
        sandbox = served_envd.async_sandbox()
        await sandbox.files.write("f", "x")
        results = await asyncio.gather(*(sandbox.commands.run(f"cat f; echo {i}") for i in range(20)))
        handle = await sandbox.commands.run("sleep 60", background=True)
        assert await handle.kill()
        with pytest.raises(CommandExitException):
            await handle.wait()
        return [result.stdout for result in results]

    assert asyncio.run(main()) == [f"x{number}\n" for number in range(20)]


def test_no_zombie_is_left(sandbox: Sandbox) -> None:
    for command in ("true", "exit 1", "kill -9 $$"):
        handle = sandbox.commands.run(command, background=True)
        with contextlib.suppress(CommandExitException):
            handle.wait()
        assert not alive(handle.pid)


def test_close_kills_what_runs_and_ends_the_streams(
    served_envd: Any, sandbox: Sandbox, wait_until: Callable[..., None]
) -> None:
    handle = sandbox.commands.run("sleep 60 & echo $!; wait", background=True)
    child = next(int(out) for out, _, _ in handle if out)
    asyncio.run(_closed_elsewhere(served_envd))
    with pytest.raises(CommandExitException) as raised:
        handle.wait()
    assert raised.value.error == "signal: killed (the sandbox ends)"
    assert not alive(handle.pid)
    wait_until(lambda: not alive(child) or is_zombie(child))


async def _closed_elsewhere(served: Any) -> None:
    future = asyncio.run_coroutine_threadsafe(served.envd.close(), served.loop)
    await asyncio.wrap_future(future)


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
