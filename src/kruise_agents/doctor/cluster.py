"""Checks of a cluster with the user's own kubectl: read-only looks at OpenKruise's objects.

The names of labels, ports, variables and fields are those of ``config/`` in openkruise/agents (August 2026).
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from ..client.addresses.cross_domain import same_domain
from ..errors import DomainError
from ..protocol.domains import parse_domain
from .checks import Checks, Finding, Group, broken, fine, skipped, warning
from .manager import wanted_template
from .way import ENVOY_PORT, is_in_cluster
from .world import World

CHECKS = Checks(Group.CLUSTER)

_MANAGER = "app.kubernetes.io/name=sandbox-manager"
_GATEWAY = "app.kubernetes.io/name=sandbox-gateway"
_PLACEHOLDERS = ("replace.with.your.domain", "your.domain.com")
_API_PORT = 8080
_MANY_RESTARTS = 3


class _KubectlError(Exception):
    """kubectl did not answer, in words for the reader."""


def _kubectl(world: World, *arguments: str) -> str:
    """Return what one read-only call of kubectl prints. Calls with the same arguments are made once."""
    outcome = world.once(("kubectl", arguments), lambda: _called(world, arguments))
    if isinstance(outcome, _KubectlError):
        raise outcome
    return outcome


def _called(world: World, arguments: tuple[str, ...]) -> str | _KubectlError:
    seconds = world.seconds(8)
    context = ["--context", world.options.context] if world.options.context else []
    command = ["kubectl", *context, f"--request-timeout={max(int(seconds), 1)}s", *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except FileNotFoundError:
        return _KubectlError("kubectl is not installed, or not on the PATH")
    except OSError as error:
        return _KubectlError(f"kubectl cannot be started: {error.strerror}")
    except subprocess.TimeoutExpired:
        return _KubectlError(f"kubectl did not answer within {seconds:.0f} seconds")
    if done.returncode != 0:
        return _KubectlError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300])
    return done.stdout


def _items(world: World, kind: str, *more: str, everywhere: bool = False) -> list[Any]:
    place = ["--all-namespaces"] if everywhere else ["--namespace", world.options.namespace]
    try:
        listed = json.loads(_kubectl(world, "get", kind, *place, *more, "--output", "json")).get("items")
    except (ValueError, AttributeError):
        raise _KubectlError(f"kubectl printed no JSON list for {kind}") from None
    return [item for item in listed or () if isinstance(item, dict)]


def _at(value: Any, *path: str | int) -> Any:
    """Return a field of nested JSON, or None."""
    for step in path:
        if isinstance(value, dict) or (isinstance(value, list) and isinstance(step, int) and step < len(value)):
            value = value.get(step) if isinstance(value, dict) else value[step]  # type: ignore[index]
        else:
            return None
    return value


def _name(item: Any) -> str:
    return str(_at(item, "metadata", "name"))


def _call(world: World, rest: str) -> str:
    context = f" --context {world.options.context}" if world.options.context else ""
    return f"kubectl{context} {rest} -n {world.options.namespace}"


def _manager_pods(world: World) -> list[Any]:
    return _items(world, "pods", "--selector", _MANAGER)


@CHECKS.add(
    "kubectl",
    "access",
    """`--kubectl` runs your own `kubectl`, with your rights, and only to read. `--context` and `--namespace` choose the
    cluster and the namespace of the manager. Secrets are never read, only whether one exists.""",
)
def _access(world: World) -> Finding:
    try:
        _kubectl(world, "get", "namespace", world.options.namespace, "--output", "name")
    except _KubectlError as error:
        return broken(
            world.options.namespace, f"kubectl says: {error}", "kubectl config get-contexts; kubectl get namespaces"
        )
    return fine(f"namespace {world.options.namespace}")


def _looked(check: Any) -> Any:
    """Return a check that is skipped where kubectl says no."""

    def run(world: World) -> Finding:
        try:
            found: Finding = check(world)
        except _KubectlError as error:
            return skipped(str(error))
        return found

    return run


@CHECKS.add(
    "manager-pods",
    "pods of the manager",
    """The pods with the label `app.kubernetes.io/name=sandbox-manager` must be ready. A pod that restarts again and
    again says why in its log: `kubectl logs -n sandbox-system deployment/sandbox-manager -c controller`. No pod at all
    means that the manager is not installed, or in another namespace (`--namespace`).""",
)
@_looked
def _pods(world: World) -> Finding:
    pods = _manager_pods(world)
    if not pods:
        return broken(
            "none",
            f"No pod in {world.options.namespace} has the label {_MANAGER}.",
            f"kubectl get pods -A -l {_MANAGER}",
        )
    return _state_of(world, pods)


def _state_of(world: World, pods: list[Any]) -> Finding:
    shown = ", ".join(f"{_name(pod)}: {'ready' if _ready(pod) else _why_not(pod)}" for pod in pods)
    ready = [pod for pod in pods if _ready(pod)]
    if not ready:
        return broken(shown, "No pod is ready.", _call(world, f"describe pod {_name(pods[0])}"))
    restarts = max(sum(int(each.get("restartCount", 0)) for each in _containers(pod)) for pod in pods)
    if len(ready) < len(pods) or restarts >= _MANY_RESTARTS:
        return warning(
            f"{shown}; {restarts} restarts",
            "Not every pod is ready, or one restarts again and again.",
            _call(world, f"logs {_name(pods[0])} --all-containers --previous"),
        )
    return fine(shown)


def _ready(pod: Any) -> bool:
    conditions = _at(pod, "status", "conditions") or ()
    return any(_at(each, "type") == "Ready" and _at(each, "status") == "True" for each in conditions)


def _why_not(pod: Any) -> str:
    reasons = [_at(each, "state", "waiting", "reason") for each in _containers(pod)]
    return ", ".join(filter(None, reasons)) or str(_at(pod, "status", "phase") or "not ready")


def _containers(pod: Any) -> list[Any]:
    return [each for each in _at(pod, "status", "containerStatuses") or () if isinstance(each, dict)]


@CHECKS.add(
    "manager-services",
    "Services of the manager",
    """The Service of the manifests is `sandbox-manager` with port 7788 only. That of the Helm chart has the name of the
    release, and also port 8080, which serves the API without the ports of sandboxes. Inside the cluster `E2B_DOMAIN`
    must name the Service and its port: `sandbox-manager.sandbox-system.svc.cluster.local:7788`.""",
)
@_looked
def _services(world: World) -> Finding:
    namespace = world.options.namespace
    ports = {_name(each): _ports(each) for each in _items(world, "services", "--selector", _MANAGER)}
    if not ports:
        return broken(
            "none", f"No Service in {namespace} has the label {_MANAGER}.", f"kubectl get svc -A -l {_MANAGER}"
        )
    shown = ", ".join(f"{each} ({', '.join(map(str, of))})" for each, of in ports.items())
    domain = world.domain
    if domain is None or not is_in_cluster(domain.host):
        return fine(shown)
    service = domain.host.partition(".")[0]
    right = f"export E2B_DOMAIN={next(iter(ports))}.{namespace}.svc.cluster.local:{ENVOY_PORT}"
    if service not in ports and service != "sandbox-gateway":
        return broken(shown, f"E2B_DOMAIN names the Service {service}, which is none of these.", right)
    used = domain.port or 80
    if service in ports and used not in ports[service]:
        return broken(shown, f"E2B_DOMAIN means port {used}, which the Service does not have.", right)
    if used == _API_PORT:
        return broken(
            shown, f"Port {_API_PORT} serves the API only: creates work, and sandboxes cannot be reached.", right
        )
    return fine(shown)


def _ports(service: Any) -> list[int]:
    return [each["port"] for each in _at(service, "spec", "ports") or () if isinstance(_at(each, "port"), int)]


@CHECKS.add(
    "gateway",
    "pods of the gateway",
    """The sandbox-gateway carries the traffic of sandboxes in newer installations. Without it the manager's own proxy
    does, which is fine too. A gateway whose pods are not ready breaks files, commands and code, while creates work.""",
)
@_looked
def _gateway(world: World) -> Finding:
    pods = _items(world, "pods", "--selector", _GATEWAY)
    return _state_of(world, pods) if pods else fine("none", "The manager's own proxy carries the traffic of sandboxes.")


@CHECKS.add(
    "ingress",
    "hosts of the ingress",
    """The ingress must have a rule for the host of `E2B_DOMAIN`, without a port. `replace.with.your.domain` and
    `your.domain.com` are placeholders of the manifests. `*.<domain>` is needed without the patch only.""",
)
@_looked
def _ingress(world: World) -> Finding:
    items = _items(world, "ingresses")
    if not items:
        return fine("none", "Programs reach the manager from inside the cluster, or through a port-forward.")
    hosts = sorted({str(_at(rule, "host") or "*") for item in items for rule in _at(item, "spec", "rules") or ()})
    shown = ", ".join(hosts)
    edit = _call(world, f"edit ingress {_name(items[0])}")
    if any(host.endswith(placeholder) for host in hosts for placeholder in _PLACEHOLDERS):
        return broken(shown, "A placeholder of the manifests is still there.", edit)
    domain = world.domain
    outside = domain is not None and not world.is_loopback and not is_in_cluster(domain.host)
    if domain is not None and outside and domain.host not in hosts and "*" not in hosts:
        return broken(shown, f"No rule is for {domain.host}.", edit)
    return fine(shown)


@CHECKS.add(
    "tls-secret",
    "TLS secrets of the ingress",
    """The ingress names the secret with its certificate, `sandbox-manager-tls` in the manifests, which nothing creates
    by itself. Without the secret the ingress serves a certificate of its own that no client trusts. Make the secret
    from a certificate for the domain: `kubectl create secret tls sandbox-manager-tls --cert=fullchain.pem
    --key=privkey.pem -n sandbox-system`.""",
)
@_looked
def _tls_secret(world: World) -> Finding:
    named = [
        str(_at(entry, "secretName"))
        for item in _items(world, "ingresses")
        for entry in _at(item, "spec", "tls") or ()
        if _at(entry, "secretName")
    ]
    if not named:
        return skipped("no ingress names a TLS secret")
    for secret in dict.fromkeys(named):
        try:  # the name only: what the secret holds stays in the cluster
            _kubectl(world, "get", "secret", secret, "--namespace", world.options.namespace, "--output", "name")
        except _KubectlError as error:
            if "not found" not in str(error).lower():
                return skipped(str(error))
            create = f"create secret tls {secret} --cert=fullchain.pem --key=privkey.pem"
            return broken(secret, "The ingress names this secret, and it does not exist.", _call(world, create))
    return fine(", ".join(dict.fromkeys(named)))


@CHECKS.add(
    "manager-settings",
    "settings of the manager",
    """`E2B_DOMAIN` (or `--e2b-domain`) of the manager is best left empty: the manager then answers with the domain that
    the client used. A fixed domain must be yours. `E2B_ENABLE_AUTH=false` (or `--e2b-enable-auth=false`) lets everybody
    in who reaches the manager.""",
)
@_looked
def _settings(world: World) -> Finding:
    pods = _manager_pods(world)
    if not pods:
        return skipped("there is no pod of the manager")
    fixed, auth = (
        _setting(pods[0], "E2B_DOMAIN", "--e2b-domain"),
        _setting(pods[0], "E2B_ENABLE_AUTH", "--e2b-enable-auth"),
    )
    shown = f"domain {fixed or 'of the request'}, authentication {'off' if auth == 'false' else 'on'}"
    deployment = f"set env deployment {_name(pods[0]).rsplit('-', 2)[0]}"
    empty = _call(world, f"{deployment} E2B_DOMAIN=")
    if fixed in _PLACEHOLDERS:
        return broken(shown, "E2B_DOMAIN of the manager is still the placeholder of the manifests.", empty)
    if fixed and world.domain is not None and not _same(fixed, world):
        return warning(
            shown, f"The manager's domain is fixed, and yours is {world.domain}. The patch keeps to yours.", empty
        )
    if auth == "false":
        return warning(
            shown, "Everybody who reaches the manager can use it.", _call(world, f"{deployment} E2B_ENABLE_AUTH=true")
        )
    return fine(shown)


def _same(fixed: str, world: World) -> bool:
    try:
        parse_domain(fixed)
    except DomainError:
        return False
    return same_domain(fixed, str(world.domain), world.scheme or "https")


def _setting(pod: Any, variable: str, option: str) -> str:
    """Return a setting of a pod's containers, from the arguments or the environment; an empty text if there is none."""
    for container in _at(pod, "spec", "containers") or ():
        arguments = [str(each) for each in [*(_at(container, "command") or ()), *(_at(container, "args") or ())]]
        for index, argument in enumerate(arguments):
            if argument.startswith(f"{option}="):
                return argument.partition("=")[2]
            if argument == option and index + 1 < len(arguments):
                return arguments[index + 1]
        for entry in _at(container, "env") or ():
            if _at(entry, "name") == variable and _at(entry, "value"):
                return str(entry["value"])
    return ""


@CHECKS.add(
    "stock",
    "templates (SandboxSets) and their stock",
    """A template of OpenKruise's manager is a SandboxSet, and a create claims one of its waiting sandboxes. Without the
    SandboxSet a create is refused with `Template or Checkpoint not found`; without stock it waits or fails. Look at the
    events of the SandboxSet and of its pods for why none becomes available.""",
)
@_looked
def _stock(world: World) -> Finding:
    items = _items(world, "sandboxsets.agents.kruise.io", everywhere=True)
    stock: dict[str, int] = {}
    for item in items:
        available = _at(item, "status", "availableReplicas")
        stock[_name(item)] = stock.get(_name(item), 0) + (available if isinstance(available, int) else 0)
    shown = ", ".join(f"{name} ({count} available)" for name, count in sorted(stock.items())) or "none"
    wanted = wanted_template(world)
    if wanted not in stock:
        return warning(
            shown, f"No SandboxSet is named {wanted}.", "kubectl apply -f packaging/openkruise/sandboxsets.yaml"
        )
    if stock[wanted] == 0:
        return warning(shown, f"No sandbox of {wanted} waits.", "kubectl describe sandboxsets -A")
    return fine(shown)
