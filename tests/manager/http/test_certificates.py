"""The local authority of a state folder, over several starts of its manager."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from kruise_agents.manager.http.certificates import make_certificate


def test_the_same_names_keep_the_authority_that_clients_trust(tmp_path: Path) -> None:
    first = make_certificate(tmp_path, ["your.domain", "10.0.0.1"])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert make_certificate(tmp_path, ["your.domain", "10.0.0.1"]) == first
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert first.private_key.stat().st_mode & 0o077 == 0


def test_other_names_get_another_authority(tmp_path: Path) -> None:
    authority = make_certificate(tmp_path, ["localhost"]).authority.read_bytes()
    assert make_certificate(tmp_path, ["your.domain"]).authority.read_bytes() != authority


def _cut(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize("name", ["server.pem", "server.key", "ca.pem", "names"])
@pytest.mark.parametrize("damage", [Path.unlink, _cut], ids=["missing", "cut"])
def test_a_missing_or_damaged_file_is_made_anew(name: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    made = make_certificate(tmp_path, ["localhost"])
    before = made.authority.read_bytes()
    if damage is _cut and name == "names":
        (tmp_path / name).write_text("localhost")
    else:
        damage(tmp_path / name)
    assert make_certificate(tmp_path, ["localhost"]) == made
    assert made.authority.read_bytes() != before
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.private_key)
