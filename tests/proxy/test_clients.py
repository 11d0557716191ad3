"""Clients that nobody has patched, through the proxy, to a manager of either age."""

from __future__ import annotations

import json

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from support.managers import wait_for

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
