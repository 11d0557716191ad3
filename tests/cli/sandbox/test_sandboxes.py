"""``kruise-agents sandbox``: sandboxes are made, found, shown, paused, kept and killed."""

from __future__ import annotations

import json
import re
import subprocess
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from kruise_agents.cli.sandbox import command

from .conftest import Call, Program

if TYPE_CHECKING:
    from support.managers import RunningManager

EVIL = "\x1b[2J\x9b31m\u202e[red]:smile:[/red]"
"""Escapes of a terminal, a change of the writing direction, and what rich reads in texts."""


def end_of(ks: Call, sandbox_id: str) -> datetime:
    return datetime.fromisoformat(json.loads(ks("info", sandbox_id, "-o", "json").out)["end_at"])


def test_the_life_of_a_sandbox(ks: Call) -> None:
    made = ks("create", "--timeout", "10m", "--metadata", "job=life", "--env", "GREETING=hello", "--no-internet")
    assert made.code == 0, made.err
    sandbox_id = made.out.strip()
    assert ks("list", "-q", "--metadata", "job=life").out.split() == [sandbox_id]
    assert ks("exec", sandbox_id, "printenv", "GREETING").out == "hello\n"

    assert ks("timeout", sandbox_id, "2h").code == 0
    assert abs(end_of(ks, sandbox_id) - datetime.now(UTC) - timedelta(hours=2)) < timedelta(minutes=1)

    assert ks("pause", sandbox_id).code == 0
    assert ks("list", "-q", "--state", "paused", "--metadata", "job=life").out.split() == [sandbox_id]
    (paused,) = ks("list", "--metadata", "job=life").out.splitlines()[1:]
    assert paused.split()[4:] == ["-", "job=life"], "a paused sandbox has no end"
    assert re.search(r"^Ends: +-$", ks("info", sandbox_id).out, re.M)
    refused = ks("exec", sandbox_id, "true")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        f"kruise-agents: sandbox {sandbox_id} is paused; 'kruise-agents sandbox resume {sandbox_id}' resumes it\n"
    )
    assert ks("list", "-q", "--state", "running", "--metadata", "job=life").out == ""
    assert ks("resume", sandbox_id, "--timeout", "5m").code == 0
    assert ks("exec", sandbox_id, "echo", "back").out == "back\n"

    assert ks("kill", sandbox_id).out.split() == [sandbox_id]
    gone = ks("info", sandbox_id)
    assert (gone.code, gone.out) == (1, "")
    assert f"no sandbox has the ID '{sandbox_id}'" in gone.err


def test_a_command_in_a_sandbox_leaves_its_time_as_it_is(ks: Call, sandbox: Any) -> None:
    ks("timeout", sandbox.sandbox_id, "20m")
    before = end_of(ks, sandbox.sandbox_id)
    ks("exec", sandbox.sandbox_id, "true")
    assert end_of(ks, sandbox.sandbox_id) == before


def test_the_beginning_of_an_id_is_enough_if_no_other_id_begins_so(ks: Call, sandbox: Any) -> None:
    other = ks("create", "--metadata", "job=prefix").out.strip()
    common = next(n for n in range(1, 22) if sandbox.sandbox_id[:n] != other[:n])
    assert ks("info", other[: common + 1], "-o", "json").code == 0
    vague = ks("info", other[:1])
    assert vague.code == 1
    assert "IDs begin with 'i':" in vague.err
    assert other in vague.err
    ks("kill", other)


@pytest.mark.parametrize("text", ["../keys", "a/b", "", "-x", "\x1b[31m", "a\nb"])
def test_what_is_no_id_is_refused_before_it_is_sent(text: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_DOMAIN", "localhost:1")  # nobody listens there
    done = call("info", "--http", "--", text)
    assert done.code == 1
    assert "is not the ID of a sandbox" in done.err
    assert "\x1b" not in done.err


def test_a_table_has_a_line_for_each_sandbox_and_no_control_characters(ks: Call) -> None:
    sandbox_id = ks("create", "--metadata", f"evil={EVIL}").out.strip()
    shown = r"evil=\x1b[2J\x9b31m\u202e[red]:smile:[/red]"
    table = ks("list", "-o", "wide").out
    (row,) = [line for line in table.splitlines() if line.startswith(sandbox_id)]
    assert shown in row
    assert table.splitlines()[0].split()[:3] == ["ID", "TEMPLATE", "STATE"]
    assert shown in ks("info", sandbox_id).out
    listed = ks("list", "-o", "json").out
    assert listed.isascii()
    assert [one["metadata"]["evil"] for one in json.loads(listed) if one["sandbox_id"] == sandbox_id] == [EVIL]
    ks("kill", sandbox_id)


def test_json_has_no_token(ks: Call, sandbox: Any, manager: RunningManager) -> None:
    shown = ks("info", sandbox.sandbox_id, "-o", "json").out
    assert "token" not in shown.lower()
    assert manager.api_key not in shown


def test_ports_and_their_urls(ks: Call, sandbox: Any, manager: RunningManager) -> None:
    sandbox_id = sandbox.sandbox_id
    ks("exec", "-d", sandbox_id, "python3", "-m", "http.server", 3456)
    deadline = time.monotonic() + 20
    while "3456" not in (table := ks("ports", sandbox_id).out):
        assert time.monotonic() < deadline, table
    url = manager.sandbox_url(sandbox_id, 3456)
    assert url in table
    assert "envd" not in table
    assert ks("url", sandbox_id, 3456).out == f"{url}\n"
    servers = {row["port"]: row["server"] for row in json.loads(ks("ports", "-a", sandbox_id, "-o", "json").out)}
    assert servers[49983] == "envd"
    assert ks("url", sandbox_id, 70000).code == 2


def test_templates(ks: Call) -> None:
    assert "code-interpreter-v1" in ks("templates").out
    assert "CREATED" in ks("templates", "-o", "wide").out
    assert "base" in [template["templateID"] for template in json.loads(ks("templates", "-o", "json").out)]


def test_a_snapshot_starts_sandboxes(ks: Call, sandbox: Any) -> None:
    ks("exec", sandbox.sandbox_id, "touch", "/home/user/kept")
    snapshot = ks("snapshot", sandbox.sandbox_id, "--name", "of-a-test").out.strip()
    assert snapshot in ks("snapshots", sandbox.sandbox_id).out
    assert snapshot in [row["snapshot_id"] for row in json.loads(ks("snapshots", "-o", "json").out)]
    copy = ks("create", snapshot).out.strip()
    assert ks("exec", copy, "ls", "/home/user/kept").code == 0
    ks("kill", copy)
    deleted = ks("delete-snapshot", snapshot, "no-snapshot")
    assert (deleted.code, deleted.out) == (1, f"{snapshot}\n")
    assert "there is no snapshot 'no-snapshot'" in deleted.err


def test_kill_says_which_sandbox_is_not_there_and_kills_the_others(ks: Call) -> None:
    sandbox_id = ks("create").out.strip()
    done = ks("kill", "nosuchsandbox", sandbox_id, sandbox_id)
    assert (done.code, done.out) == (1, f"{sandbox_id}\n")
    assert "no sandbox has the ID 'nosuchsandbox'" in done.err


def test_kill_wants_ids_or_all(ks: Call) -> None:
    for arguments in ((), ("--all", "someid")):
        done = ks("kill", *arguments)
        assert done.code == 2
        assert "Name the sandboxes to kill, or give --all." in done.err


LOG = """2026-01-02 03:04:05,006 INFO kruise.a: began
2026-01-02 03:04:06,000 ERROR kruise.b: \x1b[2Jfailed
2026-01-02 03:04:07,000 WARNING kruise.c: hm
"""


def test_logs_show_the_last_lines_without_control_characters(ks: Call, sandbox: Any, manager: RunningManager) -> None:
    (manager.folder_of(sandbox.sandbox_id) / "log").write_text(LOG)
    assert ks("logs", sandbox.sandbox_id, "--tail", 2).out.splitlines() == [
        r"2026-01-02T03:04:06.000Z error kruise.b \x1b[2Jfailed",
        "2026-01-02T03:04:07.000Z warn kruise.c hm",
    ]
    assert ks("logs", sandbox.sandbox_id, "--level", "error").out.count("\n") == 1


def test_logs_follow_until_the_sandbox_ends(ks: Call, program: Program, manager: RunningManager) -> None:
    sandbox_id = ks("create").out.strip()
    log = manager.folder_of(sandbox_id) / "log"
    log.write_text(LOG)
    with program("logs", "-f", sandbox_id, "-n", 1, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as shown:
        assert shown.stdout.readline().endswith("kruise.c hm\n")
        with log.open("a") as file:
            # The first line has the time and text of the line before, and is a new line all the same.
            file.write("2026-01-02 03:04:07,000 WARNING kruise.c: hm\n2026-01-02 03:04:08,000 INFO kruise.a: more\n")
        assert shown.stdout.readline().endswith("kruise.c hm\n")
        assert shown.stdout.readline().endswith("kruise.a more\n")
        ks("kill", sandbox_id)
        out, err = shown.communicate(timeout=30)
    assert (shown.returncode, out) == (1, "")
    assert f"no sandbox has the ID '{sandbox_id}'" in err


@pytest.mark.parametrize("name", sorted(command.commands))
def test_each_command_has_help_and_options_for_the_connection(name: str, call: Call) -> None:
    done = call(name, "--help")
    assert done.code == 0
    assert "--https / --http" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "--timeout", "soon"), "'soon' is not a duration; write seconds, or 90s, 10m, 2h, 1d"),
        (("create", "--metadata", "novalue"), "'novalue' is not NAME=VALUE"),
        (("exec", "someid"), "Missing argument"),
        (("cp", "here", "there"), "One of SOURCE and TARGET is SANDBOX:PATH"),
        (("lst",), "No such command 'lst'"),
    ],
)
def test_a_wrong_use_is_told_with_code_2(arguments: tuple[str, ...], message: str, ks: Call) -> None:
    done = ks(*arguments)
    assert done.code == 2
    assert message in done.err
