"""The log of a sandbox's own program, over REST."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.manager.runtime.limits.log_file import KEPT_BYTES
from kruise_agents.manager.sandboxes.log import read_log
from support.managers import RunningManager

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
TEXT = """bwrap: something
2026-01-02 03:04:05,006 INFO kruise.a: began
2026-01-02 03:04:06,000 ERROR kruise.b: failed
Traceback (most recent call last):
9999-99-99 99:99:99,999 INFO no time
2026-01-02 03:04:07,000 WARNING kruise.c: hm\u2028still the same
"""


def test_lines_without_a_time_have_that_of_the_line_before(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(TEXT)
    lines = read_log(tmp_path / "log", BEGAN)
    assert [line.level for line in lines] == ["info", "info", "error", "error", "error", "warn"]
    assert [line.at.second for line in lines] == [0, 5, 6, 6, 6, 7]
    assert lines[0].at == BEGAN
    assert [line.logger for line in lines] == ["sandbox", "kruise.a", *["kruise.b"] * 3, "kruise.c"]
    assert lines[2].text == "failed"
    assert lines[5].text == "hm\u2028still the same"


def test_only_the_end_of_a_log_is_read(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        for number in range(200_000):
            file.write(f"line {number}\n")
    lines = read_log(tmp_path / "log", BEGAN)
    assert lines[-1].text == "line 199999"
    assert sum(len(line.text) + 1 for line in lines) <= KEPT_BYTES
    assert lines[0].text.startswith("line ")
    assert read_log(tmp_path / "missing", BEGAN) == []


def test_the_log_of_a_healthy_new_sandbox_is_empty(
    manager: RunningManager, sandbox: Sandbox, api: httpx.Client
) -> None:
    assert sandbox.commands.run("echo fine").stdout == "fine\n"
    assert api.get(f"/v2/sandboxes/{sandbox.sandbox_id}/logs").json() == {"logs": []}
    assert (manager.folder_of(sandbox.sandbox_id) / "log").read_text() == ""


@pytest.fixture
def written(sandbox: Sandbox, manager: RunningManager) -> str:
    """The path of a sandbox whose program has written a few lines."""
    log = manager.folder_of(sandbox.sandbox_id) / "log"
    log.write_text(TEXT)
    return f"/sandboxes/{sandbox.sandbox_id}/logs"


def test_v1_gives_lines_from_a_time_on(written: str, api: httpx.Client) -> None:
    start = int(datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC).timestamp() * 1000)
    answer = api.get(written, params={"start": start, "limit": 2}).json()
    assert [json.loads(line["line"]) for line in answer["logs"]] == [
        {"level": "error", "logger": "kruise.b", "message": "failed"},
        {"level": "error", "logger": "kruise.b", "message": "Traceback (most recent call last):"},
    ]
    assert answer["logEntries"][0] == {
        "timestamp": "2026-01-02T03:04:06.000000Z",
        "message": "failed",
        "level": "error",
        "fields": {"logger": "kruise.b"},
    }


def test_v2_gives_the_newest_first_of_a_level_or_with_a_text(written: str, api: httpx.Client) -> None:
    def messages(**params: str | int) -> list[str]:
        return [entry["message"] for entry in api.get(f"/v2{written}", params=params).json()["logs"]]

    assert messages()[0].startswith("hm")
    assert len(messages(level="warn")) == 4
    assert messages(search="failed") == ["failed"]
    assert messages(direction="forward", level="debug", search="kruise", limit=1) == ["began"]
    cursor = int(datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC).timestamp() * 1000)
    assert messages(cursor=cursor, search="kruise") == ["began"]


@pytest.mark.parametrize(
    "params", [{"direction": "up"}, {"level": "loud"}, {"search": "x" * 257}, {"limit": "-1"}, {"cursor": "9" * 18}]
)
def test_what_cannot_be_asked(params: dict[str, str], written: str, api: httpx.Client) -> None:
    answer = api.get(f"/v2{written}", params=params)
    assert answer.status_code == 400
    assert next(iter(params)) in answer.json()["message"]
