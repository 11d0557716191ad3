"""``kruise-agents cert``: a certificate that TLS clients accept, from an authority of its own."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kruise_agents.cli.cert import command


def cert(*arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)), prog_name="kruise-agents cert")


@pytest.mark.parametrize("name", ["your.domain", "api.your.domain", "10.0.0.5"])
def test_a_client_that_trusts_the_authority_accepts_each_name(name: str, tmp_path: Path) -> None:
    done = cert("your.domain", "10.0.0.5", "--folder", tmp_path / "tls")
    assert done.exit_code == 0
    assert f"--cert {tmp_path}/tls/server.pem --key {tmp_path}/tls/server.key" in done.output
    assert f"export SSL_CERT_FILE={tmp_path}/tls/ca.pem" in done.output
    assert (tmp_path / "tls" / "server.key").stat().st_mode & 0o777 == 0o600
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "tls" / "server.pem", tmp_path / "tls" / "server.key")
    client = ssl.create_default_context(cafile=tmp_path / "tls" / "ca.pem")
    _shake_hands(client, server, name)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        _shake_hands(client, server, "other.domain")


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(to_client, to_server, server_hostname=name), server.wrap_bio(to_server, to_client, True))
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["https://your.domain"], "'https://your.domain' has a scheme; use 'your.domain'"),
        (["your.domain:8443"], "'your.domain:8443' has a port, and a certificate names hosts; use 'your.domain'"),
        (["a_b.domain"], "no certificate can be made for a_b.domain: "),
        (["a" * 64], "Names in certificates have letters, digits and '-', and at most 63 between two dots"),
        ([], "Missing argument 'NAME...'"),
    ],
)
def test_a_wrong_name_is_refused(arguments: list[str], text: str, tmp_path: Path) -> None:
    done = cert(*arguments, "--folder", tmp_path / "tls")
    assert done.exit_code == 2
    assert text in done.output
    assert not (tmp_path / "tls").exists()


def test_no_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "server.key").write_text("mine")
    done = cert("your.domain", "--folder", tmp_path)
    assert done.exit_code == 2
    assert f"{tmp_path}/server.key exists, and is not replaced; name another --folder" in done.output
    assert (tmp_path / "server.key").read_text() == "mine"
    file = tmp_path / "server.key"
    assert cert("your.domain", "--folder", file / "below").exit_code == 2
