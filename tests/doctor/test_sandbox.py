"""Checks with a real sandbox: on a manager, and behind a reverse proxy that does everything wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import e2b.connection_config
import pytest

from kruise_agents.doctor.checks import Group, Result, Verdict
from kruise_agents.doctor.command import CHECKS
from kruise_agents.doctor.sandbox import Session
from kruise_agents.doctor.world import Options, World
from support.bad_proxy import bad_proxy
from support.diagnosis import ids_with, report
from support.managers import RunningManager, wait_for

OF_A_SANDBOX = [check.id for check in CHECKS.values() if check.group is Group.SANDBOX]


def _create(manager: RunningManager, **options: Any) -> dict[str, Result]:
    """Make the checks of a sandbox, and see that none is left and the SDK is as it was."""
    unpatched = e2b.connection_config.ConnectionConfig.get_host
    before = _sandboxes(manager)
    results = report({"E2B_API_KEY": manager.api_key}, create=True, **{"domain": manager.domain, **options})
    assert _sandboxes(manager) == before
    assert e2b.connection_config.ConnectionConfig.get_host is unpatched
    return {id: results[id] for id in OF_A_SANDBOX}


def _sandboxes(manager: RunningManager) -> set[str]:
    with manager.api() as api:
        return {sandbox["sandboxID"] for sandbox in api.get("/v2/sandboxes").json()}


def test_all_is_well(manager: RunningManager) -> None:
    results = _create(manager)
    assert ids_with("fine", results) == OF_A_SANDBOX, {id: result.finding for id, result in results.items()}
    assert all(result.seconds is not None for result in results.values())


def test_nothing_is_made_without_being_asked(manager: RunningManager) -> None:
    before = _sandboxes(manager)
    results = report(manager.environment())
    assert not set(OF_A_SANDBOX) & set(results)
    assert _sandboxes(manager) == before


def test_nothing_is_made_without_a_manager() -> None:
    results = report({"E2B_API_KEY": "x"}, domain="127.0.0.1:1", create=True)
    assert set(OF_A_SANDBOX) <= set(ids_with("skipped", results))


def test_a_template_that_is_not_there(manager: RunningManager) -> None:
    results = _create(manager, template="nope")
    assert ids_with("broken", results) == ["create"]
    assert "template 'nope' not found" in results["create"].finding.reason
    assert results["kill"].finding.verdict is Verdict.FINE


def test_a_reverse_proxy_that_does_everything_wrong(manager: RunningManager) -> None:
    faults = {"host": "internal.example", "statuses": {"/49999/": 503}}
    with bad_proxy(manager.port, **faults) as proxy:
        results = _create(manager, domain=proxy.domain)
    troubles = {id: str(result.finding.verdict) for id, result in results.items()}
    wrong = {id: verdict for id, verdict in troubles.items() if verdict != "fine"}
    assert wrong == {
        "sandbox-domain": "warning",
        "upload": "broken",
        "code-interpreter": "broken",
        "run-code": "broken",
        "streaming": "broken",
        "websocket": "broken",
    }
    assert "internal.example" in results["sandbox-domain"].finding.value
    assert "413" in results["upload"].finding.value
    assert "buffers" in results["streaming"].finding.reason


def test_a_port_that_serves_the_api_only(manager: RunningManager) -> None:
    with bad_proxy(manager.port, statuses={"/49983/": 404, "/49999/": 404}) as proxy:
        results = _create(manager, domain=proxy.domain)
    assert results["create"].finding.verdict is Verdict.FINE
    assert {"envd", "commands", "files", "upload", "code-interpreter"} <= set(ids_with("broken", results))
    assert "404" in results["envd"].finding.reason


def test_a_create_whose_answer_is_lost(manager: RunningManager) -> None:
    with bad_proxy(manager.port, loses_creates=True) as proxy:
        results = _create(manager, domain=proxy.domain)
    assert results["create"].finding.verdict is Verdict.BROKEN
    assert results["kill"].finding.value == "none was left"


def test_a_gateway_that_wants_tokens_and_keeps_the_sandbox(manager: RunningManager) -> None:
    with bad_proxy(manager.port, statuses={r"/kruise/i\w+/(?!49983|49999)": 401, "^DELETE": 500}) as proxy:
        results = report({"E2B_API_KEY": manager.api_key}, create=True, domain=proxy.domain)
    (sandbox_id,) = _sandboxes(manager)
    with manager.api() as api:
        api.delete(f"/sandboxes/{sandbox_id}").raise_for_status()
    assert (results["port"].finding.verdict, results["port"].finding.value) == (Verdict.WARNING, "401")
    assert results["kill"].finding.verdict is Verdict.BROKEN


@pytest.mark.parametrize(("sandbox_id", "verdict"), [("api-prod--x", Verdict.WARNING), ("prod--x", Verdict.FINE)])
def test_ids_that_look_like_the_api(sandbox_id: str, verdict: Verdict) -> None:
    world = World(Options(), {})
    session = world.once("session", lambda: Session(world))
    session.sandbox = SimpleNamespace(sandbox_id=sandbox_id)
    assert CHECKS["sandbox-id"].run(world).verdict is verdict


def test_ctrl_c_kills_the_sandbox(manager: RunningManager, tmp_path: Path) -> None:
    before = _sandboxes(manager)
    with bad_proxy(manager.port) as proxy:  # which makes the check of streams wait
        environment = {"PATH": os.environ["PATH"], "E2B_DOMAIN": proxy.domain, "E2B_API_KEY": manager.api_key}
        command = [sys.executable, "-m", "kruise_agents.doctor", "--create"]
        with subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            wait_for(lambda: _sandboxes(manager) - before, 30, "the sandbox")
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (130, b"", b"")
    assert _sandboxes(manager) == before
