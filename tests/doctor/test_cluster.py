"""Checks of a cluster, with a program in place of kubectl that prints what a cluster of the manifests has."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kruise_agents.doctor.checks import Group, Verdict
from kruise_agents.doctor.command import CHECKS
from support.diagnosis import finding, ids_with, report

pytestmark = pytest.mark.live

FINE, WARNING, BROKEN, SKIPPED = Verdict.FINE, Verdict.WARNING, Verdict.BROKEN, Verdict.SKIPPED
KUBECTL = """\
#!{python}
import json, sys, time
from pathlib import Path
here = Path(__file__).parent
arguments = [each for each in sys.argv[1:] if not each.startswith("--request-timeout=")]
with (here / "calls").open("a") as calls:
    calls.write(" ".join(arguments) + "\\n")
if arguments[0] == "--context":
    arguments = arguments[2:]
world = json.loads((here / "world.json").read_text())
if "slow" in world:
    time.sleep(world["slow"])
if "refusal" in world:
    sys.exit(world["refusal"])
assert arguments[0] == "get", arguments
kind, name = arguments[1], arguments[2]
if kind in ("namespace", "secret"):
    if name not in world[kind]:
        sys.exit(f'Error from server (NotFound): {{kind}}s "{{name}}" not found')
    print(f"{{kind}}/{{name}}")
else:
    label = arguments[arguments.index("--selector") + 1].partition("=")[2] if "--selector" in arguments else None
    items = [item for item in world[kind] if label in (None, item.get("metadata", {{}}).get("labels", {{}}).get("of"))]
    print(json.dumps({{"items": items}}))
"""


def _pod(
    name: str, of: str, environment: Mapping[str, str] | None = None, *, ready: bool = True, restarts: int = 0
) -> dict[str, Any]:
    status = {"type": "Ready", "status": str(ready)}
    state = {} if ready else {"waiting": {"reason": "CrashLoopBackOff"}}
    variables = {"E2B_ADMIN_KEY": "admin-secret", **(environment or {})}
    return {
        "metadata": {"name": name, "labels": {"of": of}},
        "spec": {
            "containers": [
                {
                    "name": "controller",
                    "args": ["-v=7"],
                    "env": [{"name": key, "value": value} for key, value in variables.items()],
                }
            ]
        },
        "status": {
            "phase": "Running",
            "conditions": [status],
            "containerStatuses": [{"name": "controller", "restartCount": restarts, "state": state}],
        },
    }


def _service(name: str, *ports: int) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"of": "sandbox-manager"}},
        "spec": {"ports": [{"port": port} for port in ports]},
    }


def _ingress(*hosts: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "sandbox-manager"},
        "spec": {"rules": [{"host": host} for host in hosts], "tls": [{"secretName": "sandbox-manager-tls"}]},
    }


def _set(name: str, available: int) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"availableReplicas": available, "replicas": 2}}


HEALTHY: dict[str, Any] = {
    "namespace": ["sandbox-system"],
    "secret": ["sandbox-manager-tls"],
    "pods": [_pod("sandbox-manager-6f5-x2x", "sandbox-manager"), _pod("sandbox-gateway-1-2", "sandbox-gateway")],
    "services": [_service("sandbox-manager", 7788)],
    "ingresses": [_ingress("*.d.example", "d.example")],
    "sandboxsets.agents.kruise.io": [_set("code-interpreter-v1", 2)],
}


class Cluster:
    """The program in place of kubectl, and what it prints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "kubectl"
        program.write_text(KUBECTL.format(python=sys.executable))
        program.chmod(0o755)
        self.has()

    def has(self, **others: Any) -> None:
        names = {"sets": "sandboxsets.agents.kruise.io"}
        (self.folder / "world.json").write_text(
            json.dumps({**HEALTHY, **{names.get(name, name): value for name, value in others.items()}})
        )

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PATH", str(tmp_path))
    return Cluster(tmp_path)


def check(id: str, domain: str = "d.example", **options: Any) -> tuple[Verdict, str]:
    found = finding(id, domain=domain, **options)
    assert "admin-secret" not in f"{found}"
    return found.verdict, f"{found.value} {found.reason} {found.command}"


def test_a_healthy_cluster(cluster: Cluster) -> None:
    results = report({}, domain="127.0.0.1:1", kubectl=True, context="other")
    of_cluster = {id: result for id, result in results.items() if result.check.group is Group.CLUSTER}
    assert set(of_cluster) == {each.id for each in CHECKS.values() if each.group is Group.CLUSTER}
    assert ids_with("fine", of_cluster) == list(of_cluster)
    assert all(call.startswith("--context other get ") for call in cluster.calls)
    assert len(cluster.calls) == len(set(cluster.calls))
    assert [call for call in cluster.calls if "secret" in call] == [
        "--context other get secret sandbox-manager-tls --namespace sandbox-system --output name"
    ]


def test_without_the_option_kubectl_is_left_alone(cluster: Cluster) -> None:
    report({}, domain="127.0.0.1:1")
    assert not (cluster.folder / "calls").exists()


def test_access(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check("kubectl")[0] is FINE
    assert check("kubectl", namespace="elsewhere")[0] is BROKEN
    cluster.has(refusal="The connection to the server 10.0.0.1:6443 was refused")
    verdict, text = check("kubectl")
    assert (verdict, "10.0.0.1:6443 was refused" in text) == (BROKEN, True)
    assert check("stock")[0] is SKIPPED
    cluster.has(slow=30)
    assert "did not answer" in check("kubectl", seconds=0.2)[1]
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "not installed" in check("kubectl")[1]


@pytest.mark.parametrize(("id", "of"), [("manager-pods", "sandbox-manager"), ("gateway", "sandbox-gateway")])
def test_pods(id: str, of: str, cluster: Cluster) -> None:
    assert check(id)[0] is FINE
    cluster.has(pods=[_pod("a-1-2", of, ready=False)])
    verdict, text = check(id)
    assert (verdict, "CrashLoopBackOff" in text) == (BROKEN, True)
    cluster.has(pods=[_pod("a-1-2", of), _pod("b-1-2", of, ready=False)])
    assert check(id)[0] is WARNING
    cluster.has(pods=[_pod("a-1-2", of, restarts=7)])
    assert check(id)[0] is WARNING
    cluster.has(pods=[])
    assert check(id)[0] is (BROKEN if id == "manager-pods" else FINE)


@pytest.mark.parametrize(
    ("domain", "verdict", "words"),
    [
        ("d.example", FINE, ""),
        ("sandbox-manager.sandbox-system.svc.cluster.local:7788", FINE, ""),
        ("sandbox-manager.sandbox-system.svc.cluster.local", BROKEN, "port 80"),
        ("sandbox-manager.sandbox-system.svc:8080", BROKEN, "serves the API only"),
        ("agents-manager.sandbox-system.svc:7788", BROKEN, "none of these"),
    ],
)
def test_services(domain: str, verdict: Verdict, words: str, cluster: Cluster) -> None:
    cluster.has(services=[_service("sandbox-manager", 7788, 8080)])
    found, text = check("manager-services", domain)
    assert (found, words in text) == (verdict, True)
    if verdict is BROKEN:
        assert "export E2B_DOMAIN=sandbox-manager.sandbox-system.svc.cluster.local:7788" in text


def test_no_service(cluster: Cluster) -> None:
    cluster.has(services=[])
    assert check("manager-services")[0] is BROKEN


def test_hosts_of_the_ingress(cluster: Cluster) -> None:
    assert check("ingress")[0] is FINE
    assert check("ingress", "localhost:8080")[0] is FINE
    assert check("ingress", "other.example")[0] is BROKEN
    cluster.has(ingresses=[_ingress("*.replace.with.your.domain", "replace.with.your.domain")])
    assert check("ingress", "localhost:8080")[0] is BROKEN
    cluster.has(ingresses=[])
    assert check("ingress")[0] is FINE


def test_the_secret_of_the_ingress(cluster: Cluster) -> None:
    assert check("tls-secret")[0] is FINE
    cluster.has(secret=[])
    verdict, text = check("tls-secret")
    assert (verdict, "kubectl create secret tls sandbox-manager-tls" in text) == (BROKEN, True)
    cluster.has(ingresses=[])
    assert check("tls-secret")[0] is SKIPPED


def test_settings_of_the_manager(cluster: Cluster) -> None:
    def with_settings(**environment: str) -> tuple[Verdict, str]:
        cluster.has(pods=[_pod("sandbox-manager-6f5-x2x", "sandbox-manager", environment)])
        return check("manager-settings")

    assert with_settings()[0] is FINE
    assert with_settings(E2B_DOMAIN="d.example", E2B_ENABLE_AUTH="true")[0] is FINE
    verdict, text = with_settings(E2B_DOMAIN="replace.with.your.domain")
    assert (verdict, "kubectl set env deployment sandbox-manager E2B_DOMAIN=" in text) == (BROKEN, True)
    assert with_settings(E2B_DOMAIN="other.example")[0] is WARNING
    assert with_settings(E2B_ENABLE_AUTH="false")[0] is WARNING
    cluster.has(pods=[])
    assert check("manager-settings")[0] is SKIPPED


def test_stock(cluster: Cluster) -> None:
    assert check("stock")[0] is FINE
    assert check("stock", template="desktop")[0] is WARNING
    cluster.has(sets=[_set("code-interpreter-v1", 0)])
    assert check("stock")[0] is WARNING
