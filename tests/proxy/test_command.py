"""``kruise-agents proxy`` as a person meets it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import httpx
import pytest

from support.managers import wait_for
from support.upstreams import running_proxy

pytestmark = pytest.mark.live
ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9"


def refused(*options: str, variables: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-m", "kruise_agents", "proxy", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | (variables or {}))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "the proxy needs one sandbox-manager: give --upstream"),
        (("--upstream", NOBODY, "--port-forward", "a/b"), "the proxy needs one sandbox-manager"),
        (("--upstream", "ftp://x"), "begins with 'ftp'"),
        (("--port-forward", "b"), "is not a namespace and a service"),
        (("--upstream", "https://x", "--upstream-ca", "/none"), "--upstream-ca /none cannot be used: No such file"),
        (("--upstream", NOBODY, "--domain", "https://x"), "has a scheme; use 'x'"),
        (("--upstream", NOBODY, "--port", "0", "--host", "192.0.2.1"), "cannot listen on 192.0.2.1:0"),
        (("--upstream", NOBODY, "--connect-others"), "--connect-others needs --connect-proxy"),
    ],
)
def test_what_cannot_work_is_refused(options: tuple[str, ...], message: str) -> None:
    assert message in refused(*options)


def test_a_manager_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with running_proxy(tmp_path, "--upstream", NOBODY) as proxy:
        text = f"cannot connect to the sandbox-manager at {NOBODY}: nobody listens there"
        assert text in proxy.log.read_text()
        assert text in httpx.get(f"{proxy.url}/teams").json()["message"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it(number: signal.Signals, tmp_path: Path) -> None:
    with running_proxy(tmp_path, "--upstream", NOBODY) as proxy:
        os.kill(proxy.pid, number)
        status = Path(f"/proc/{proxy.pid}/status")
        wait_for(lambda: "State:\tZ" in status.read_text(), what="the end of the proxy")


def test_it_needs_no_more_than_its_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {
        extra: {re.split(r"[\[<>=;]", line, maxsplit=1)[0].lower() for line in extras[extra]}
        for extra in ("local", "proxy")
    }
    others = names["local"] - names["proxy"]
    assert names["proxy"] < names["local"]
    distributions = {module: {name.lower() for name in found} for module, found in packages_distributions().items()}
    missing = sorted(module for module, found in distributions.items() if found <= others)
    assert "zmq" in missing
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
        "from kruise_agents.cli.proxy import main; main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--port-forward" in done.stdout
