"""Pages of two sandboxes in one real browser, of which one page attacks the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from e2b_code_interpreter import Sandbox

from support.browsing import Browser, reporting, showing
from support.managers import RunningManager, wait_for

pytestmark = [pytest.mark.live, pytest.mark.needs("a browser")]
PROGRAM = Path(__file__).parents[1] / "programs" / "pages.py"
HTML = ["Content-Type", "text/html"]
SCRIPT = ["Content-Type", "text/javascript"]
WORKER = """
self.addEventListener('install', () => self.skipWaiting())
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()))
self.addEventListener('fetch', (event) => {
  if (new URL(event.request.url).origin === location.origin) event.respondWith(new Response('owned'))
})
"""
HELPERS = """
const attempt = async (action) => { try { return await action() } catch (error) { return `${error.name}` } }
const report = (name, found) =>
  fetch('REPORTS', { method: 'POST', mode: 'no-cors', body: JSON.stringify({ name, ...found }) })
const text = async (address, options) => (await fetch(address, options)).text()
const register = async (script, options) => {
  const made = await navigator.serviceWorker.register(script, options)
  const worker = made.installing || made.waiting || made.active
  while (worker.state !== 'activated') await new Promise((done) => worker.addEventListener('statechange', done))
  return new URL(made.scope).pathname
}
"""

Pages = dict[str, tuple[list[list[str]], str]]


@pytest.fixture
def reports() -> Iterator[Browser]:
    with reporting() as seen:
        yield seen


@pytest.fixture
def attacker(manager: RunningManager, patched: None) -> Iterator[Sandbox]:
    with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as running:
        yield running


def page(reports: Browser, script: str) -> str:
    helpers = HELPERS.replace("REPORTS", reports.url)
    return f"<!doctype html><script type=module>{helpers}\n{script}</script>"


def serve_pages(sandbox: Sandbox, port: int, pages: Pages) -> None:
    sandbox.files.write("pages.json", json.dumps(pages))
    sandbox.files.write("pages.py", PROGRAM.read_text())
    sandbox.commands.run(f"exec python3 pages.py {port} > pages.log 2>&1", background=True, timeout=0)
    url = f"http://{sandbox.get_host(port)}/ready"
    wait_for(lambda: httpx.get(url).status_code == 200, 20, "the pages")


def names(cookies: str) -> set[str]:
    return {cookie.partition("=")[0].strip() for cookie in cookies.split(";")} - {""}


VICTIM = """
await report('victim', {
  text: await text('plain'),
  kept: localStorage.getItem('kept'),
  controlled: navigator.serviceWorker.controller !== null,
  scopes: (await navigator.serviceWorker.getRegistrations()).map((made) => new URL(made.scope).pathname),
  cookies: await text('cookies'),
  seen: document.cookie,
})
"""


def test_on_private_paths_no_header_of_one_sandbox_reaches_another(
    manager: RunningManager, attacker: Sandbox, sandbox: Sandbox, reports: Browser, port: int, tmp_path: Path
) -> None:
    mine, theirs = f"/kruise/{attacker.sandbox_id}/{port}", f"/kruise/{sandbox.sandbox_id}/{port + 1}"
    wide = ["Service-Worker-Allowed", "/"]
    cookies = ["root=1; Path=/", "domain=1; Domain=localhost; path=/", "two=1; Path=/; Path=/kruise", "bare=1"]
    attack = f"""
    await report('attacker', {{
      origin: await attempt(() => register('worker.js', {{ scope: '/' }})),
      all: await attempt(() => register('worker.js', {{ scope: '/kruise/' }})),
      sibling: await attempt(() => register('{mine}', {{ scope: '/kruise/{attacker.sandbox_id}/' }})),
      whole: await attempt(() => register('{mine}?x')),
      own: await attempt(() => register('worker.js')),
    }})
    location = '{theirs}/again'
    """
    hostile = [HTML, wide, ["Clear-Site-Data", '"*"'], *(["Set-Cookie", cookie] for cookie in cookies)]
    serve_pages(
        attacker,
        port,
        {
            "/": ([SCRIPT, wide], WORKER),
            "/worker.js": ([SCRIPT, wide], WORKER),
            "/attack": (hostile, page(reports, attack)),
        },
    )
    first = f"localStorage.setItem('kept', 'yes'); location = '{mine}/attack'"
    again = page(reports, VICTIM)
    serve_pages(
        sandbox,
        port + 1,
        {"/first": ([HTML], page(reports, first)), "/again": ([HTML], again), "/plain": ([HTML], "itself")},
    )
    with showing(f"http://localhost:{manager.port}{theirs}/first", tmp_path):
        tried, found = reports.report("attacker"), reports.report("victim")
    assert tried["origin"] == tried["all"] == "SecurityError"
    assert tried["sibling"] == tried["whole"] == "TypeError"  # the gateway refuses the script
    assert tried["own"] == f"{mine}/"
    assert found["text"] == "itself"
    assert found["kept"] == "yes"
    assert not found["controlled"]
    assert found["scopes"] == [f"{mine}/"]
    assert names(found["cookies"]) == names(found["seen"]) == set()


def test_names_below_localhost_give_each_port_an_origin_of_its_own(
    manager: RunningManager, attacker: Sandbox, sandbox: Sandbox, reports: Browser, port: int, tmp_path: Path
) -> None:
    mine = f"http://{port}-{attacker.sandbox_id}.localhost:{manager.port}"
    theirs = f"http://{port + 1}-{sandbox.sandbox_id}.localhost:{manager.port}"
    private = f"/kruise/{sandbox.sandbox_id}/{port + 1}/secret"
    headers = f"{{ 'E2b-Sandbox-Id': '{sandbox.sandbox_id}', 'E2b-Sandbox-Port': '{port + 1}' }}"
    attack = f"""
    document.cookie = 'script=1; Path=/; Domain=localhost'
    await report('attacker', {{
      across: await attempt(() => text('{theirs}/secret')),
      path: await attempt(() => text('{private}')),
      headers: await attempt(() => text('/secret', {{ headers: {headers} }})),
      own: await attempt(() => register('/worker.js', {{ scope: '/' }})),
    }})
    location = '{theirs}/again'
    """
    cookies = ["root=1; Path=/", "domain=1; Domain=localhost; Path=/"]
    hostile = [HTML, ["Clear-Site-Data", '"*"'], *(["Set-Cookie", cookie] for cookie in cookies)]
    serve_pages(attacker, port, {"/worker.js": ([SCRIPT], WORKER), "/attack": (hostile, page(reports, attack))})
    first = f"localStorage.setItem('kept', 'yes'); location = '{mine}/attack'"
    serve_pages(
        sandbox,
        port + 1,
        {
            "/first": ([HTML], page(reports, first)),
            "/again": ([HTML], page(reports, VICTIM)),
            "/plain": ([HTML], "itself"),
            "/secret": ([HTML], "a secret"),
        },
    )
    with showing(f"{theirs}/first", tmp_path):
        tried, found = reports.report("attacker"), reports.report("victim")
    assert tried["across"] == "TypeError"
    assert tried["path"] == tried["headers"] == "no such page"
    assert tried["own"] == "/"
    assert found["text"] == "itself"
    assert found["kept"] == "yes"
    assert not found["controlled"]
    assert found["scopes"] == []
    assert names(found["cookies"]) == names(found["seen"]) == set()


def test_a_page_runs_code_as_the_javascript_sdk_does_and_not_without_the_token(
    manager: RunningManager, sandbox: Sandbox, reports: Browser, tmp_path: Path
) -> None:
    token: Any = sandbox._envd_access_token
    execute = f"http://localhost:{manager.port}/kruise/{sandbox.sandbox_id}/49999/execute"
    script = f"""
    const headers = {{
      'Content-Type': 'application/json', 'E2b-Sandbox-Id': '{sandbox.sandbox_id}', 'E2b-Sandbox-Port': '49999',
    }}
    const run = (more) => text('{execute}', {{
      method: 'POST', headers: {{ ...headers, ...more }}, body: JSON.stringify({{ code: '6 * 7' }}), keepalive: true,
    }})
    await report('page', {{
      sdk: await attempt(() => run({{ 'X-Access-Token': '{token}' }})),
      without: await attempt(() => run({{}})),
      simple: await attempt(() => text('{execute}', {{ method: 'POST', body: JSON.stringify({{ code: '6 * 7' }}) }})),
      other: await attempt(() => run({{ 'X-Access-Token': '{token}', 'X-API-Key': 'key' }})),
    }})
    """
    reports.pages["/page"] = page(reports, script)
    with showing(f"{reports.url}/page", tmp_path):
        found = reports.report("page")
    assert '"text":"42"' in found["sdk"].replace(" ", "")
    assert "X-Access-Token is missing" in found["without"]
    assert "X-Access-Token is missing" in found["simple"]
    assert found["other"] == "TypeError"
