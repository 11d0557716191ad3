"""A uvicorn whose inner names have changed is refused at the start, by name, before anything is touched."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from uvicorn.protocols.http import httptools_impl

from kruise_agents.errors import ConfigurationError
from kruise_agents.manager.http import connection
from kruise_agents.manager.http.server import TESTED, check_uvicorn, examine_uvicorn
from kruise_agents.serving import http_protocol
from support.managers import API_KEY, available_runtime

HOOKS = ["_should_upgrade", "_unsupported_upgrade_warning", "_unset_keepalive_if_required", "send_400_response"]


def test_the_installed_one_fits() -> None:
    check_uvicorn()
    assert [place for place, problem in examine_uvicorn() if problem] == []


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_that_is_gone_is_named_with_the_versions(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(httptools_impl.HttpToolsProtocol, hook)
    monkeypatch.setattr("uvicorn.__version__", "9.9.9")
    with pytest.raises(ConfigurationError) as refused:
        check_uvicorn()
    text = str(refused.value)
    assert f"does not fit uvicorn 9.9.9: uvicorn.protocols.http.httptools_impl.HttpToolsProtocol.{hook} is mis" in text
    assert f"tested: {TESTED[0]} ... {TESTED[1]}" in text
    assert f"pip install 'uvicorn>={TESTED[0]},<={TESTED[1]}'" in text


def test_a_hook_that_takes_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httptools_impl.HttpToolsProtocol, "on_header", lambda self, header: None)
    with pytest.raises(ConfigurationError, match=r"on_header does not take 2 arguments"):
        check_uvicorn()


def test_an_attribute_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Renamed:
        def __init__(self) -> None:
            self.header_defaults: list[str] = []

    monkeypatch.setattr(httptools_impl, "RequestResponseCycle", Renamed)
    with pytest.raises(ConfigurationError, match=r"RequestResponseCycle\.default_headers is missing"):
        check_uvicorn()


def test_an_option_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.config.Config", type("Config", (), {}))
    with pytest.raises(ConfigurationError, match=r"uvicorn\.config\.Config\.loop is missing"):
        check_uvicorn()


def test_every_inner_name_that_the_server_uses_is_examined() -> None:
    trees = [ast.parse(Path(str(module.__file__)).read_text()) for module in (connection, http_protocol)]
    ours = {name for name in vars(connection.GuardedHttpProtocol) if name not in vars(httptools_impl.HttpToolsProtocol)}
    used: set[str] = set()
    assigned: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "self.cycle", "self.flow"):
            (assigned if ast.unparse(node.value) == "self" and isinstance(node.ctx, ast.Store) else used).add(node.attr)
    examined = {place.rpartition(".")[2] for place, _ in examine_uvicorn()}
    assert used - ours - assigned - examined == set()


BROKEN = {
    "a hook": "del httptools_impl.HttpToolsProtocol._should_upgrade",
    "the whole class": "del httptools_impl.HttpToolsProtocol",
}


@pytest.mark.live
@pytest.mark.parametrize("name", BROKEN)
def test_the_start_is_refused_before_anything_is_touched(name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        command = ["serve", "--port", str(port), "--state-dir", str(tmp_path / "state"), "--api-key", API_KEY]
        program = f"from uvicorn.protocols.http import httptools_impl\n{BROKEN[name]}\n"
        program += f"import sys\nsys.argv[1:] = {[*command, '--runtime', available_runtime(), '--tls']}\n"
        program += "from kruise_agents.cli import main\nmain()"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    # The port is taken, and yet that is not what it complains about.
    assert done.returncode == 2
    assert done.stderr.startswith("kruise-agents: the HTTP server does not fit uvicorn")
    assert "HttpToolsProtocol" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()
