"""Metadata travels from the upload to the entry, by way of extended attributes."""

from __future__ import annotations

import os
from typing import Any

import httpx
import pytest
from e2b import Sandbox

from kruise_agents.sandbox.envd.errors import HttpError
from kruise_agents.sandbox.envd.files.metadata import from_headers


def test_metadata_comes_back_with_the_entry(sandbox: Sandbox) -> None:
    info = sandbox.files.write("f", "x", metadata={"author": "me", "n": "1"})
    assert info.metadata == {"author": "me", "n": "1"}
    assert sandbox.files.get_info("f").metadata == {"author": "me", "n": "1"}
    assert sandbox.files.list(".")[0].metadata == {"author": "me", "n": "1"}


def test_each_upload_replaces_all_of_it(sandbox: Sandbox) -> None:
    sandbox.files.write("f", "x", metadata={"a": "1", "b": "2"})
    sandbox.files.write("f", "x", metadata={"b": "3"})
    assert sandbox.files.get_info("f").metadata == {"b": "3"}
    sandbox.files.write("f", "x")
    assert not sandbox.files.get_info("f").metadata


def test_a_rename_keeps_it(sandbox: Sandbox) -> None:
    sandbox.files.write("f", "x", metadata={"a": "1"})
    assert sandbox.files.rename("f", "g").metadata == {"a": "1"}


def test_attributes_of_other_programs_are_shown(sandbox: Sandbox, served_envd: Any) -> None:
    sandbox.files.write("f", "x")
    file = served_envd.home / "f"
    os.setxattr(file, "user.e2b.by", "ünï".encode())
    os.setxattr(file, "user.e2b.binary", b"\xff")
    os.setxattr(file, b"user.e2b.\xff", b"x")
    os.setxattr(file, "user.other", b"x")
    assert sandbox.files.get_info("f").metadata == {"by": "ünï"}


def test_answers_without_metadata_have_only_the_keys_that_old_sdks_know(served_envd: Any) -> None:
    reply = httpx.post(served_envd.url + "/files", files={"file": ("f", b"x")})
    assert set(reply.json()[0]) == {"path", "name", "type"}


def test_the_limits_are_those_of_the_file_system() -> None:
    assert from_headers([("X-Metadata-KEY", "v"), ("other", "x")]) == {"key": "v"}
    assert from_headers([("x-metadata-" + "k" * 246, "v")])
    assert from_headers([("x-metadata-k", "v" * 4086)])


@pytest.mark.parametrize(
    "header",
    [
        ("x-metadata-", "v"),
        ("x-metadata-k", "ü"),
        ("x-metadata-k", "a\tb"),
        ("x-metadata-" + "k" * 247, "v"),
        ("x-metadata-k", "v" * 4087),
    ],
)
def test_bad_metadata_is_refused_before_anything_is_written(header: tuple[str, str], served_envd: Any) -> None:
    with pytest.raises(HttpError):
        from_headers([header])
    name, value = header
    reply = httpx.post(
        served_envd.url + "/files",
        files={"file": ("f", b"x")},
        headers={name.encode(): value.encode("latin-1")},
    )
    assert reply.status_code == 400
    assert reply.json()["message"].startswith("invalid metadata: ")
    assert not (served_envd.home / "f").exists()


def test_more_than_the_file_system_takes_is_said_so(served_envd: Any) -> None:
    """ext4 has a block of 4096 bytes for all attributes of a file. Other file systems have more room."""
    reply = httpx.post(served_envd.url + "/files", files={"file": ("f", b"x")}, headers={"x-metadata-k": "v" * 4086})
    file = served_envd.home / "f"
    try:
        os.setxattr(file, "user.e2b.k", b"v" * 4086)
    except OSError:
        message = f"not enough space for the metadata of {file} on its file system"
        assert (reply.status_code, reply.json()["message"]) == (507, message)
    else:
        assert reply.json()[0]["metadata"] == {"k": "v" * 4086}
