"""Checks of the manager itself: who answers, the key, the routes, the clock, the domain, the templates."""

from __future__ import annotations

import email.utils
import re
import time
from typing import Any, get_args
from urllib.parse import urlsplit

from packaging.version import Version

from .. import __version__
from ..client.addresses.cross_domain import same_domain
from ..client.seams import CODE_INTERPRETER, E2B
from ..probe import GATEWAY_ERRORS, Look, ManagerKind, Trouble
from ..protocol.addresses import API_PREFIX, Scheme, sandbox_prefix
from ..protocol.names import ENVD_PORT
from .checks import Checks, Finding, Group, broken, fine, skipped, warning
from .sdk import release
from .world import CONNECT_SHELL, LIST, World, parsed_json

_V2_SDK = Version("2.51.0")
"""The first release of e2b that calls the v2 routes."""
_MOST_SECONDS_APART = 60
_OK, _ERROR = 200, 500
_UNAUTHORIZED, _NOT_ALLOWED, _NOT_FOUND = 401, 405, 404
_VERSION = re.compile(rb'"title":\s*"kruise-agents[^"]*",\s*"version":\s*"([^"]{1,40})"')

CHECKS = Checks(Group.MANAGER)


@CHECKS.add(
    "manager",
    "who answers",
    """The doctor asks `/kruise/api/health`, and the list of sandboxes without a key. The embedded manager answers `OK`;
    OpenKruise's manager has no such route, and answers `404 page not found` and 401. HTML, 502 or 503 come from a
    reverse proxy or an ingress whose manager is down or which has no route to it; an empty 500 comes from the Envoy in
    front of OpenKruise's manager. The SDK does not follow redirects: set `E2B_DOMAIN` to where they lead. On a cluster
    look at the pods: `kruise-agents doctor --kubectl`.""",
)
def _manager(world: World) -> Finding:
    health, listing = world.health, world.listing
    if health is None:
        return skipped("nothing answers at the domain")
    kind = world.kind
    if kind is ManagerKind.EMBEDDED:
        return _embedded(world)
    if kind is not None:
        return fine(kind)
    place = f"{health.scheme}://{world.domain}{API_PREFIX}"
    shown = _shown(health)
    look_at_pods = "kruise-agents doctor --kubectl"
    if health.is_redirect:
        return broken(
            shown,
            f"The server sends requests on to {health.headers['location']}, and the SDK does not follow.",
            _follow(world, health.headers["location"]) or f"curl -v {place}/health",
        )
    if health.status in GATEWAY_ERRORS:
        return broken(shown, "A reverse proxy answers, and the manager behind it does not.", look_at_pods)
    if health.status == _ERROR and not health.body:
        return broken(shown, "Envoy answers, and the manager behind it does not.", look_at_pods)
    if listing is not None and listing.trouble is Trouble.TIMED_OUT:
        return broken(shown, "The list of sandboxes is not answered in time.", look_at_pods)
    return broken(
        shown,
        f"What answers at {place} is no manager.",
        "compare E2B_DOMAIN with what the manager prints, or ask its administrator",
    )


def _follow(world: World, location: str) -> str:
    """Return the command for the place that an API has moved to; empty if the target is another page."""
    target = urlsplit(location)
    if target.scheme not in get_args(Scheme) or not target.hostname or not target.path.startswith(API_PREFIX):
        return ""
    call = "patch_e2b()" if target.scheme == "https" else "patch_e2b(False)"
    return f"export E2B_DOMAIN={target.netloc.rpartition('@')[2]}   # and {call} in the program"


def _embedded(world: World) -> Finding:
    described = world.ask(f"{API_PREFIX}/openapi.json")
    found = _VERSION.search(described.body) if described is not None and described.trouble is None else None
    version = found[1].decode(errors="replace") if found else ""
    if version and version != __version__:
        return warning(
            f"{ManagerKind.EMBEDDED} {version}",
            f"This package is {__version__}.",
            "pip install --upgrade 'kruise-agents[local]'   # on both sides",
        )
    return fine(f"{ManagerKind.EMBEDDED} {version}".strip())


def _shown(look: Look) -> str:
    if look.trouble is not None:
        return str(look.trouble)
    server = look.headers.get("server", "")
    title = re.search(r"(?is)<title>(.*?)</title>", look.text)
    first = " ".join((title[1] if title else look.text).split())[:60]
    return ", ".join(
        filter(None, [str(look.status), f"server: {server}" if server else "", repr(first) if first else "no body"])
    )


@CHECKS.add(
    "key-accepted",
    "API key at the manager",
    """The list of sandboxes is asked for without the key and with it. 401 with the key: the manager does not know it;
    it may be the key of another manager or team, or was copied wrongly. An answer without a key: the manager's
    authentication is off, and everybody who reaches it can use it. Sandboxes belong to the key that made them: with
    another key, also the admin's, they are 404.""",
)
def _key_accepted(world: World) -> Finding:
    if world.kind is None:
        return skipped("no manager answers")
    without = world.listing
    if without is not None and without.status == _OK:
        return warning(
            "no key is needed",
            "The manager's authentication is off. The SDK wants some key all the same.",
            "start the manager with authentication (E2B_ENABLE_AUTH=true)",
        )
    if not world.key:
        return skipped("no key is set")
    answer = world.ask(f"{LIST}?limit=1", with_key=True)
    assert answer is not None
    if answer.status == _OK:
        return fine("accepted")
    if answer.status == _UNAUTHORIZED:
        return broken(
            "refused",
            f"The manager does not know this key: {_message(answer)}",
            CONNECT_SHELL if world.own else "export E2B_API_KEY=…   # the key that this manager prints",
        )
    return broken(_shown(answer), "The list of sandboxes cannot be had.", "read the log of the manager")


def _message(look: Look) -> str:
    parsed = parsed_json(look)
    return str(parsed.get("message", "")) if isinstance(parsed, dict) else look.text[:100]


@CHECKS.add(
    "routes",
    "routes for new sandboxes",
    """e2b 2.51.0 and later create sandboxes with `POST /v2/sandboxes`, which OpenKruise's manager (August 2026) answers
    with 405. Under `patch_e2b()` a bridge uses the older routes, and refuses what they cannot do. Programs without the
    patch, such as JavaScript with e2b 2.51.0 and later, get the 405. The doctor sends the request without a body, which
    creates nothing.""",
)
def _routes(world: World) -> Finding:
    if world.kind is None:
        return skipped("no manager answers")
    answer = world.ask(LIST, method="POST")
    assert answer is not None
    if answer.trouble is not None:
        return broken(str(answer.trouble), f"{LIST} is not answered.", "")
    if answer.status != _NOT_ALLOWED:
        return fine("v1 and v2")
    version = release(E2B)
    if version is not None and version >= _V2_SDK:
        return warning(
            "v1 only",
            f"Without the patch e2b {version} gets 405. The patch translates, and refuses what v1 cannot do.",
            "patch_e2b()   # in every process; for programs without the patch: pip install 'e2b<2.51'",
        )
    return fine("v1 only", "That is enough for the installed e2b.")


@CHECKS.add(
    "sandbox-addresses",
    "addresses of sandboxes",
    """The traffic of sandboxes goes to `/kruise/<id>/<port>/…` at the same domain as the API. A web server before the
    manager must pass on all of `/kruise/`, not `/kruise/api/` alone: otherwise a create works, while files, commands
    and `run_code` get the web server's own pages, such as `405 Not Allowed`. Port 8080 of OpenKruise's manager serves
    the API only; use port 7788. The doctor asks for a sandbox that does not exist.""",
)
def _sandbox_addresses(world: World) -> Finding:
    if world.kind is None:
        return skipped("no manager answers")
    path = f"{sandbox_prefix('kruise-agents-doctor', ENVD_PORT)}/health"
    answer = world.ask(path)
    assert answer is not None
    if answer.trouble is not None:
        return broken(str(answer.trouble), f"{path} is not answered.", "")
    if answer.status == _NOT_FOUND and world.kind is ManagerKind.OPENKRUISE:
        return broken(_shown(answer), "This port serves the API only.", f"export E2B_DOMAIN={_host(world)}:7788")
    if answer.is_redirect or "text/html" in answer.headers.get("content-type", ""):
        return broken(
            _shown(answer),
            "A web server answers there in place of the manager: it passes on the API only.",
            "location /kruise/ { … }   # in nginx, in place of: location /kruise/api/",
        )
    return fine(f"answered with {answer.status}")


def _host(world: World) -> str:
    return world.domain.host if world.domain is not None else ""


@CHECKS.add(
    "clock",
    "clocks",
    """Certificates and traffic access tokens have times in them. If the clocks of this machine and of the manager are
    more than a minute apart, tokens are refused as expired or as not valid yet. Let both machines set their clocks from
    the network.""",
)
def _clock(world: World) -> Finding:
    health = world.health
    if health is None:
        return skipped("nothing answers at the domain")
    try:
        told = email.utils.parsedate_to_datetime(health.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return skipped("the answer has no Date")
    apart = round(time.time() - told)
    if abs(apart) <= _MOST_SECONDS_APART:
        return fine(f"within {max(abs(apart), 1)} s")
    ahead = "ahead of" if apart > 0 else "behind"
    return warning(
        f"{abs(apart)} s apart", f"This machine's clock is {ahead} the server's.", "sudo timedatectl set-ntp true"
    )


@CHECKS.add(
    "server-domain",
    "domain in answers",
    """A manager writes a domain into its answers, and the unpatched SDK sends the traffic of sandboxes there. If that
    domain differs from yours, the manager has a fixed one (`--domain` of `kruise-agents serve`, `E2B_DOMAIN` or
    `--e2b-domain` of OpenKruise's manager), or a reverse proxy changes the `Host` header. The patch keeps to your
    domain, with a `ServerDomainWarning`. The domain shows in the answer to a sandbox only: there must be one, or use
    `--create`.""",
)
def _server_domain(world: World) -> Finding:
    listed = world.ask_json(f"{LIST}?limit=1")
    if not isinstance(listed, list):
        return skipped("the list of sandboxes cannot be had")
    if not listed:
        return skipped("see sandbox-domain" if world.options.create else "it shows with a sandbox only: add --create")
    sandbox_id = listed[0].get("sandboxID") if isinstance(listed[0], dict) else None
    if not isinstance(sandbox_id, str) or not re.fullmatch(r"[A-Za-z0-9._~-]+", sandbox_id):
        return skipped("the list of sandboxes cannot be read")
    return domain_of_answer(world, world.ask_json(f"{API_PREFIX}/sandboxes/{sandbox_id}"))


def domain_of_answer(world: World, answer: Any) -> Finding:
    """Compare the domain in an answer about a sandbox with the domain of the program."""
    named = answer.get("domain") if isinstance(answer, dict) else None
    if not isinstance(named, str) or not named:
        return skipped("the answer names no domain")
    scheme = world.scheme or "https"
    if same_domain(named, str(world.domain), scheme):
        return fine(named)
    return warning(
        f"{named}, and yours is {world.domain}",
        "The patch keeps to your domain, with a warning. Programs without the patch, or with "
        "follow_server_domain=True, send traffic to the other one.",
        f"kruise-agents serve --domain {world.domain}   # on a cluster: leave E2B_DOMAIN of the manager empty",
    )


@CHECKS.add(
    "templates",
    "default template",
    """`Sandbox.create()` without a template asks for `code-interpreter-v1` (`base` for plain `e2b`). On a cluster a
    template is a SandboxSet, and none of these names exists unless somebody made it. Pass one of the names that are
    there, `Sandbox.create("name")`, or make SandboxSets with the default names.""",
)
def _templates(world: World) -> Finding:
    listed = world.ask_json(f"{API_PREFIX}/templates")
    if not isinstance(listed, list):
        return skipped("the list of templates cannot be had")
    names: set[str] = set()
    for template in listed:
        if isinstance(template, dict):
            known = [template.get("templateID"), *(template.get("names") or ()), *(template.get("aliases") or ())]
            names.update(name for name in known if isinstance(name, str) and name.isprintable())
    wanted = wanted_template(world)
    if wanted in names:
        return fine(wanted)
    shown = ", ".join(sorted(names)[:10]) or "none"
    return warning(
        f"no {wanted}",
        f"The manager has: {shown}.",
        f'Sandbox.create("{min(names)}")' if names else "kubectl apply -f packaging/openkruise/sandboxsets.yaml",
    )


def wanted_template(world: World) -> str:
    """Return the template of the options, else the one that the installed SDK asks for."""
    return world.options.template or ("code-interpreter-v1" if release(CODE_INTERPRETER) else "base")
