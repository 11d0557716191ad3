"""Clients that nobody has patched, through the proxy, to a manager of either age."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from support.browsing import reporting, showing
from support.environments import javascript_packages
from support.managers import MEASURED, wait_for
from support.programs import run_command
from support.upstreams import in_front_of, running_proxy

from .conftest import Ages

pytestmark = pytest.mark.live

AGES = pytest.mark.parametrize("age", ["new", "old"])
TEMPLATE = "code-interpreter"


@pytest.fixture
def variables(ages: Ages, age: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    variables = ages.proxies[age].environment(ages.managers[age].api_key)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@AGES
def test_the_sdk_without_a_patch(age: str, ages: Ages, variables: dict[str, str]) -> None:
    assert sorted(variables) == ["E2B_API_KEY", "E2B_API_URL", "E2B_DOMAIN", "E2B_SANDBOX_URL"]
    content = bytes(range(256)) * 8192
    with Sandbox.create(TEMPLATE, metadata={"walk": age}, timeout=120) as sandbox:
        assert sandbox.sandbox_domain == variables["E2B_DOMAIN"]
        said: list[str] = []
        assert sandbox.commands.run("echo one; echo two >&2", on_stderr=said.append).stdout == "one\n"
        assert said == ["two\n"]
        assert sandbox.run_code("6 * 7").text == "42"
        sandbox.files.write("big", content)
        assert sandbox.files.read("big", format="bytes") == content
        assert Sandbox.get_info(sandbox.sandbox_id).metadata["walk"] == age
        assert sandbox.sandbox_id in [each.sandbox_id for each in Sandbox.list().next_items()]
        sandbox.set_timeout(60)
        assert Sandbox.connect(sandbox.sandbox_id).commands.run("cat big | wc -c").stdout.strip() == str(len(content))

        sandbox.commands.run("echo page > index.html; exec python3 -m http.server 3000", background=True)
        host = sandbox.get_host(3000)
        assert host == f"3000-{sandbox.sandbox_id}.{variables['E2B_DOMAIN']}"
        url = variables["E2B_API_URL"]
        ways = [
            (url, {"Host": host}),
            (f"{url}/kruise/{sandbox.sandbox_id}/3000", {}),
            (url, {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "3000"}),
        ]
        for base, headers in ways:
            wait_for(lambda base=base, headers=headers: httpx.get(f"{base}/", headers=headers).text == "page\n")  # type: ignore[misc]
        assert sandbox.is_running()
    assert not sandbox.is_running()
    log = ages.managers[age].log.read_text()
    assert f"sandbox={sandbox.sandbox_id}" in log


@AGES
def test_raw_calls(age: str, ages: Ages, variables: dict[str, str]) -> None:
    key = {"X-API-Key": variables["E2B_API_KEY"]}
    with httpx.Client(base_url=variables["E2B_API_URL"], headers=key, timeout=60) as api:
        made = api.post("/sandboxes", json={"templateID": TEMPLATE, "timeout": 60})
        assert made.status_code == 201
        sandbox_id = made.json()["sandboxID"]
        assert made.json()["domain"] == variables["E2B_DOMAIN"]
        code = {"code": "print(6 * 7)", "language": "python"}
        headers = {"Host": f"49999-{sandbox_id}.{made.json()['domain']}"}
        if token := made.json().get("envdAccessToken"):
            headers["X-Access-Token"] = token
        lines = api.post("/execute", json=code, headers=headers).text.splitlines()
        assert "42\n" in [json.loads(line).get("text") for line in lines]
        assert api.delete(f"/sandboxes/{sandbox_id}").status_code == 204
    log = ages.proxies[age].log.read_text()
    assert "POST /sandboxes 201" in log
    assert variables["E2B_API_KEY"] not in log


@AGES
def test_a_wrong_key_is_refused_by_the_manager(age: str, ages: Ages) -> None:
    answer = httpx.get(f"{ages.proxies[age].url}/v2/sandboxes", headers={"X-API-Key": "wrong"})
    assert answer.status_code == 401
    assert "Invalid API Key" in answer.json()["message"]


@pytest.mark.needs("node")
@AGES
def test_the_javascript_sdk(age: str, ages: Ages, variables: dict[str, str], tmp_path: Path) -> None:
    program = shutil.copy(Path(__file__).with_name("walk.mjs"), tmp_path)
    (tmp_path / "node_modules").symlink_to(javascript_packages())
    environment = {**variables, "HOME": str(tmp_path), "TEMPLATE": TEMPLATE, "REFUSED": "1" if age == "old" else ""}
    assert run_command([shutil.which("node") or "", program], environment) == "walked\n"


NATIVE = f"""
import urllib.request
from e2b_code_interpreter import Sandbox

with Sandbox.create({TEMPLATE!r}, timeout=60) as sandbox:
    assert sandbox.commands.run("echo hello").stdout == "hello\\n"
    assert sandbox.run_code("6 * 7").text == "42"
    sandbox.files.write("note", "here")
    with urllib.request.urlopen(sandbox.download_url("note")) as answer:
        assert answer.read() == b"here"
    print(sandbox.get_host(80).partition(".")[2])
"""


@AGES
def test_a_program_with_fixed_https_addresses(age: str, ages: Ages, tmp_path: Path) -> None:
    manager = ages.managers[age]
    options = [*in_front_of(manager), "--connect-proxy", "--domain", "fixed.example"]
    with running_proxy(tmp_path, *options) as proxy:
        environment = proxy.of_connect | MEASURED | {"E2B_API_KEY": manager.api_key, "HOME": str(tmp_path)}
        assert sorted(proxy.of_connect) == ["E2B_DOMAIN", "HTTPS_PROXY", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE"]
        assert run_command([sys.executable, "-c", NATIVE], environment) == "fixed.example\n"
        assert str(tmp_path) in proxy.of_connect["SSL_CERT_FILE"]
        assert manager.api_key not in proxy.log.read_text()


@pytest.mark.needs("a browser")
@AGES
def test_a_browser_opens_a_port(age: str, ages: Ages, variables: dict[str, str], tmp_path: Path) -> None:
    with reporting() as seen, Sandbox.create(TEMPLATE, timeout=120) as sandbox:
        sandbox.files.write("page.py", Path(__file__).with_name("page.py").read_text())
        sandbox.commands.run(f"exec python3 page.py 3000 {seen.url}", background=True, timeout=0)
        host = sandbox.get_host(3000)
        wait_for(lambda: httpx.get(variables["E2B_API_URL"], headers={"Host": host}).status_code == 200)
        with showing(f"http://{host}/", tmp_path):
            report = seen.report("page")
    assert report["socket"] == "from my own page"
    assert (report["landed"], report["cookie"]) == ("/in", "who=me")
