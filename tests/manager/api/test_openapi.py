"""The OpenAPI document says what is served, all of it and nothing else, and the manager answers as it says."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from kruise_agents import __version__
from kruise_agents.manager.api.openapi import document as describe
from kruise_agents.manager.api.routes import ApiRoute, Resource, Topic, operation
from support.environments import run_tool, tool_environment
from support.managers import RunningManager, running_manager

pytestmark = pytest.mark.live
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"


@pytest.fixture(scope="module")
def document(manager: RunningManager) -> dict[str, Any]:
    answer = httpx.get(f"{manager.api_url}/openapi.json")  # by nobody in particular
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def test_every_served_route_is_described_and_every_described_route_is_served(
    declared: list[ApiRoute], document: dict[str, Any]
) -> None:
    served = {
        (method, re.sub(r":[a-z]+\}", "}", route.path))
        for route in declared
        for method in (route.methods or set()) - {"HEAD"}
    }
    told = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert told == served


def test_every_schema_is_there_and_used(document: dict[str, Any]) -> None:
    used = set(re.findall(r"#/components/schemas/([A-Za-z]+)", json.dumps(document)))
    assert used == set(document["components"]["schemas"])
    assert (document["openapi"], document["info"]["version"]) == ("3.1.0", __version__)


def test_the_rules_of_a_sandbox_may_be_more_than_a_request_may_send(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    sent = schemas["NewNetwork"]["properties"]["denyOut"]["anyOf"][0]
    assert sent["maxItems"] == 100
    assert "maxItems" not in schemas["NetworkRules"]["properties"]["denyOut"]  # "everything" may be one more


def test_two_types_cannot_share_the_name_of_a_schema() -> None:
    class FirstReply(TypedDict):
        a: int

    @dataclass
    class FirstRequest:
        b: int

    class Routes(Resource):
        topic = Topic.MANAGER

        @operation("GET /a", "A", answers={200: FirstReply, 201: FirstRequest})
        async def get(self, request: Request) -> Response:
            return Response()

    with pytest.raises(TypeError, match="would both be the schema First"):
        describe(Routes().routes())


def test_older_managers_had_no_such_document(tmp_path: Path) -> None:
    with running_manager(tmp_path, "--like", "openkruise", runtime="process") as old, old.api() as api:
        assert api.get("/openapi.json").status_code == 404


def test_the_manager_answers_as_it_says_to_requests_made_up_from_the_document(tmp_path: Path) -> None:
    with running_manager(tmp_path) as manager:
        with manager.api() as api:
            alive = api.post("/sandboxes", json={"templateID": "base", "timeout": 3600}).json()["sandboxID"]
            description = tmp_path / "openapi.json"
            description.write_text(json.dumps(with_examples(api.get("/openapi.json").json(), alive)))
            settings = tmp_path / "schemathesis.toml"
            # The key stands in a file, because another test looks for it in the command lines of all processes.
            key = f'headers = {{ "X-API-Key" = "{manager.api_key}" }}'
            settings.write_text(f"{key}\n[phases.coverage]\nunexpected-methods = []\n")
        run_tool(
            str(tool_environment("schemathesis") / "schemathesis"),
            f"--config-file={settings}",
            "run",
            str(description),
            f"--url={manager.api_url}",
            f"--checks={CHECKS}",
            "--phases=examples,coverage,fuzzing",
            "--max-examples=10",
            "--seed=1",
            "--generation-database=none",
            "--suppress-health-check=all",
            "--no-color",
        )
        with manager.api() as api:
            assert api.get(f"/sandboxes/{alive}").status_code == 200
        assert "Traceback" not in manager.log.read_text()


def with_examples(document: dict[str, Any], sandbox_id: str) -> dict[str, Any]:
    """Return the document with a running sandbox as the example, without unsupported routes and the deletion."""
    del document["servers"], document["paths"]["/sandboxes/{sandbox_id}"]["delete"]
    document["components"]["schemas"]["Timeout"]["properties"]["timeout"]["minimum"] = 60
    for path, item in list(document["paths"].items()):
        for method, described in list(item.items()):
            if described["summary"].endswith("not supported yet"):
                del item[method]
            for parameter in described["parameters"]:
                if parameter["name"] == "sandbox_id":
                    parameter["example"] = sandbox_id
                if parameter["name"] in ("template_id", "alias"):
                    parameter["example"] = "base"
        if not item:
            del document["paths"][path]
    return document
