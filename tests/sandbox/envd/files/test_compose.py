"""``/files/compose``: several files become one, in one step, or nothing happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest


def compose(served: Any, *sources: str, destination: Any = "whole", **more: Any) -> httpx.Response:
    request = {"source_paths": list(sources), "destination": destination} | more
    return httpx.post(f"{served.url}/files/compose", json=request)


@pytest.fixture
def parts(served_envd: Any) -> list[str]:
    for number in range(3):
        (served_envd.home / f"part{number}").write_bytes(bytes([number]) * 700_000)
    return ["part2", "part0", "~/part1"]


def test_files_are_joined_in_their_order_and_then_gone(parts: list[str], served_envd: Any) -> None:
    reply = compose(served_envd, *parts, destination="new/folder/whole")
    whole = served_envd.home / "new/folder/whole"
    assert (reply.status_code, reply.json()) == (200, {"path": str(whole), "name": "whole", "type": "file"})
    assert whole.read_bytes() == b"".join(bytes([number]) * 700_000 for number in (2, 0, 1))
    assert whole.stat().st_mode & 0o7777 == 0o644
    assert whole.parent.stat().st_mode & 0o7777 == 0o755
    assert [one.name for one in served_envd.home.iterdir()] == ["new"]


def test_the_destination_is_replaced_and_not_written_into(parts: list[str], served_envd: Any) -> None:
    old = served_envd.home / "whole"
    old.write_text("old")
    with old.open() as reader:
        assert compose(served_envd, *parts).status_code == 200
        assert reader.read() == "old"
    assert old.stat().st_size == 2_100_000


def test_a_source_may_be_named_twice_and_be_empty(parts: list[str], served_envd: Any) -> None:
    (served_envd.home / "empty").touch()
    assert compose(served_envd, "part0", "empty", "part0").status_code == 200
    assert (served_envd.home / "whole").stat().st_size == 1_400_000
    assert not (served_envd.home / "part0").exists()


def test_a_user_may_be_named(parts: list[str], served_envd: Any) -> None:
    assert compose(served_envd, *parts, username="user").status_code == 200
    reply = compose(served_envd, "whole", destination="again", username="nobody-here")
    message = "error looking up user 'nobody-here': user: unknown user nobody-here"
    assert (reply.status_code, reply.json()) == (401, {"code": 401, "message": message})


def test_mistakes_are_named_and_change_nothing(parts: list[str], served_envd: Any) -> None:
    home = served_envd.home
    (home / "folder").mkdir()
    (home / "link").symlink_to("part0")
    before = snapshot(home)
    for reply, status, message in [
        (compose(served_envd), 400, "source_paths must not be empty"),
        (compose(served_envd, "part0", destination=""), 400, "destination is required"),
        (compose(served_envd, "part0", destination=None), 400, "destination is required"),
        (compose(served_envd, "part0", "none"), 404, f"source file not found: {home}/none"),
        (compose(served_envd, "part0", "part1/x"), 404, f"source file not found: {home}/part1/x"),
        (compose(served_envd, "part0", "folder"), 400, f"source path is not a regular file: {home}/folder"),
        (compose(served_envd, "/dev/null"), 400, "source path is not a regular file: /dev/null"),
        (
            compose(served_envd, "part0", destination="part0"),
            400,
            f'source path "{home}/part0" cannot be the same as destination',
        ),
        (
            compose(served_envd, "part1", f"{home}/folder/../part0", destination="part0"),
            400,
            f'source path "{home}/folder/../part0" cannot be the same as destination',
        ),
        (
            compose(served_envd, "link", destination="part0"),
            400,
            f'source path "{home}/link" cannot be the same as destination',
        ),
        (compose(served_envd, "part0", destination="folder"), 400, f"path is a directory: {home}/folder"),
        (
            compose(served_envd, "part0", destination="part1/x/y"),
            500,
            f"error ensuring directories: path is a file: {home}/part1",
        ),
        (compose(served_envd, "part0", 7), 400, "error parsing request body: source_paths is not a list of strings"),  # type: ignore[arg-type]  # wrong on purpose
        (compose(served_envd, "part0", destination=7), 400, "error parsing request body: destination is not a string"),
        (compose(served_envd, "part0", username=7), 400, "error parsing request body: username is not a string"),
    ]:
        assert (reply.status_code, reply.json()) == (status, {"code": status, "message": message})
    assert compose(served_envd, "part0", destination="~bob/x").status_code == 400
    assert snapshot(home) == before


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff"])
def test_what_is_no_object_is_refused(body: bytes, served_envd: Any) -> None:
    reply = httpx.post(f"{served_envd.url}/files/compose", content=body)
    assert reply.status_code == 400
    assert reply.json()["message"].startswith("error parsing request body: ")


def test_the_access_token_is_needed_and_no_signature_will_do(parts: list[str], served_envd: Any) -> None:
    served_envd.state.access_token = "secret"
    assert compose(served_envd, *parts).status_code == 401
    assert (served_envd.home / "part0").exists()


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_size for path in folder.rglob("*")}
