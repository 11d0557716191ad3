# One manager and one sandbox, through everything that two sides must spell alike. Argument: an empty folder.
# Every name is taken from the package, so that the program also runs with a copy in which all of them are others.
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx

import kruise_agents
from kruise_agents.client.traffic_token.holder import put_token
from kruise_agents.manager.manager import Manager
from kruise_agents.manager.runtime import Layout
from kruise_agents.manager.sandboxes.control_client import ControlClient
from kruise_agents.manager.settings import Settings
from kruise_agents.protocol import names
from kruise_agents.sandbox.connect.framing import Envelope, EnvelopeDecoder

KEY = "a-key-of-the-test"
TEMPLATE = """
start = "touch ~/started"

[ready]
command = "test -e ~/started"
"""
CODE = f"""
import http.server, os, threading
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, os.environ[{names.SANDBOX_ID_VARIABLE!r}], os.environ["MINE"])
"""


async def main(folder: Path) -> None:
    (folder / "templates").mkdir()
    (folder / "templates" / "started.toml").write_text(TEMPLATE)
    settings = Settings(folder / "state", [KEY], port=0, runtime="process", pool=0, templates=folder / "templates")
    async with (
        Manager(settings) as manager,
        httpx.AsyncClient(headers={names.API_KEY_HEADER: KEY}, timeout=60) as client,
    ):
        base = f"http://localhost:{manager.port}/kruise"
        metadata, variables = {names.PROTECT_KEY: "true"}, {"MINE": "mine"}
        body = {"templateID": "started", "secure": True, "metadata": metadata, "envVars": variables}
        created = (await client.post(f"{base}/api/sandboxes", json=body)).json()
        url = f"{base}/{created['sandboxID']}"
        headers = {names.ACCESS_TOKEN_HEADER: created["envdAccessToken"]}

        health = f"{url}/{names.ENVD_PORT}/health"
        assert (await client.get(health, headers=headers)).status_code == 403, "protected, and open without a token"
        answer = await client.post(f"{base}/api/sandboxes/{created['sandboxID']}/traffic-access-token", json={})
        put_token(headers, answer.json()["trafficAccessToken"])
        assert (await client.get(health, headers=headers)).status_code == 204

        said = await run_code(client, f"{url}/{names.CODE_INTERPRETER_PORT}", headers)
        port, sandbox_id, mine = said.split()
        assert (sandbox_id, mine) == (created["sandboxID"], "mine")
        assert (await client.get(f"{url}/{port}/", headers=headers)).status_code == 200, "a port through the relay"

        control = ControlClient(Layout.of(folder / "state" / "sandboxes", created["sandboxID"]).sockets, str)
        assert (await control.variables())["MINE"] == "mine"
        assert "cpu_count" in json.loads(await control.measure(created["envdAccessToken"]))
        timeout = f"{base}/api/sandboxes/{created['sandboxID']}/timeout"
        assert (await client.post(timeout, json={"timeout": 60})).status_code == 204
        end = await kill_with_notice(client, f"{url}/{names.ENVD_PORT}", headers, control)
        assert end["status"] == "signal: killed (a test says so)", end
    print("done with", kruise_agents.__file__)


async def run_code(client: httpx.AsyncClient, url: str, headers: dict[str, str]) -> str:
    answer = await client.post(f"{url}/execute", headers=headers, json={"code": CODE})
    lines = [json.loads(line) for line in answer.text.splitlines() if line]
    return "".join(line["text"] for line in lines if line["type"] == "stdout")


async def kill_with_notice(client: httpx.AsyncClient, url: str, headers: dict[str, str], control: ControlClient) -> Any:
    """Return the last event of a process that is killed after the manager has announced it."""
    start = json.dumps({"process": {"cmd": "sleep", "args": ["60"]}}).encode()
    headers = {**headers, "Content-Type": "application/connect+json"}
    decoder = EnvelopeDecoder()
    request: dict[str, Any] = {"headers": headers, "content": Envelope(0, start).encode()}
    async with client.stream("POST", f"{url}/process.Process/Start", **request) as answer:
        async for chunk in answer.aiter_raw():
            for envelope in decoder.feed(chunk):
                event = json.loads(envelope.payload).get("event", {})
                if "start" in event:
                    pid = event["start"]["pid"]
                    await control.announce_kill(pid, "a test says so")
                    order = {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}
                    await client.post(
                        f"{url}/process.Process/SendSignal",
                        headers={**headers, "Content-Type": "application/json"},
                        json=order,
                    )
                elif "end" in event:
                    return event["end"]
    raise AssertionError("the process has no end")


asyncio.run(main(Path(sys.argv[1])))
