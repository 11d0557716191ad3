"""Checks of this machine: Python, and the variables that the SDK and its HTTP clients read."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import platform
import re
import ssl
import time
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version

from ..client.addresses.cross_domain import VENDOR_DEFAULTS
from ..client.installed_sdk import installed_release
from ..errors import DomainError
from ..probe import look_at
from ..protocol.addresses import API_PREFIX, Scheme, api_url
from ..protocol.domains import parse_domain
from ..protocol.keys import decode_key
from .checks import Checks, Finding, Group, broken, fine, skipped, warning
from .world import CONNECT_SHELL, World

KEY_CHECK = (Version("2.25.0"), Version("2.45.1"))
"""The first and the last release of e2b that refuses keys that are not ``e2b_`` and hex digits."""
_ENCODED_BEGINNING = "e2b_6f6b6167"
_HEX_KEY = re.compile("e2b_[0-9a-f]+")
_KNOWN_VARIABLES = (
    "E2B_DOMAIN",
    "E2B_API_KEY",
    "E2B_API_URL",
    "E2B_SANDBOX_URL",
    "E2B_VOLUME_API_URL",
    "E2B_DEBUG",
    "E2B_HTTP_VERSION",
    "E2B_CONNECTION_RETRIES",
    "E2B_MAX_CONNECTIONS",
    "E2B_MAX_KEEPALIVE_CONNECTIONS",
    "E2B_VALIDATE_API_KEY",
    "E2B_ACCESS_TOKEN",
    "E2B_TEAM_ID",
)
_OTHER_NAMES = {
    "E2B_API_TOKEN": "E2B_API_KEY",
    "E2B_TOKEN": "E2B_API_KEY",
    "E2B_KEY": "E2B_API_KEY",
    "E2B_ACCESS_TOKEN": "E2B_API_KEY",
    "E2B_URL": "E2B_DOMAIN",
    "E2B_HOST": "E2B_DOMAIN",
    "E2B_BASE_URL": "E2B_DOMAIN",
    "E2B_ENDPOINT": "E2B_DOMAIN",
}
_URL_VARIABLES = ("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_VOLUME_API_URL")
_SERVE = "kruise-agents serve"
_BEGIN = "-----BEGIN CERTIFICATE-----"

CHECKS = Checks(Group.MACHINE)


@CHECKS.add(
    "python",
    "version of Python",
    """Each release of `e2b` names the Python versions that it runs on. An environment that was copied, or whose Python
    was changed, can have an SDK that does not fit. Make the environment anew with a Python that fits, or install
    another release of the SDK.""",
)
def _python(world: World) -> Finding:
    running = platform.python_version()
    try:
        required = str(importlib.metadata.metadata("e2b").json.get("requires_python", ""))
        fits = SpecifierSet(required).contains(running, prereleases=True)
    except (importlib.metadata.PackageNotFoundError, InvalidSpecifier):
        return fine(running)
    if fits:
        return fine(running)
    return broken(
        running,
        f"e2b {installed_release('e2b')} needs Python {required}.",
        "python3 -m venv .venv && .venv/bin/pip install kruise-agents   # with a Python that fits",
    )


@CHECKS.add(
    "domain-set",
    "domain of the manager",
    """Without `E2B_DOMAIN` (and without `domain=` in the program) the SDK asks E2B's own servers, which do not speak
    the private protocol. `kruise-agents serve` prints the value for a manager on this machine. On a cluster the value
    is the domain of the ingress, `localhost:8080` through a port-forward, or the Service with its port from inside.""",
)
def _domain_set(world: World) -> Finding:
    command = CONNECT_SHELL if world.running else "export E2B_DOMAIN=localhost:7788"
    if not world.domain_text.strip():
        return broken("not set", f"The SDK would ask E2B's own servers.{_runs_here(world)}", command)
    if world.domain is not None and world.domain.host in VENDOR_DEFAULTS:
        reason = f"That is E2B's own domain, which does not speak the private protocol.{_runs_here(world)}"
        return broken(world.domain_text, reason, command)
    return fine(world.domain_text)


def _runs_here(world: World) -> str:
    return f" A manager runs on this machine: {world.running.domain}." if world.running else ""


@CHECKS.add(
    "domain-form",
    "form of the domain",
    """A domain is a host with or without a port: `your.domain.com`, `localhost:7788`, `[::1]:7788`. A scheme, a path or
    a blank in it is refused. Whether the program speaks https or http is said by `patch_e2b()` and `patch_e2b(False)`,
    not by the domain.""",
)
def _domain_form(world: World) -> Finding:
    if not world.domain_text.strip():
        return skipped("no domain is set")
    if world.domain is None:
        suggested = re.search(r"use '([^']*)'", world.problem)
        return broken(
            repr(world.domain_text),
            f"{_sentence(world.problem)}.",
            f"export E2B_DOMAIN={suggested[1] if suggested else 'your.domain.com'}",
        )
    return fine(str(world.domain))


@CHECKS.add(
    "key-set",
    "API key",
    """The SDK wants an API key, also where the manager asks for none. `kruise-agents serve` prints its key; on a
    cluster ask the administrator. A program that passes `api_key=` needs no variable. The advice of the SDK's own
    error, to get a key from e2b.dev, is wrong for a manager of your own.""",
)
def _key_set(world: World) -> Finding:
    given = world.environment.get("E2B_API_KEY")
    if world.key:
        return fine(f"{len(world.key)} characters")
    value = "not set" if given is None else "empty"
    return broken(
        value,
        "The SDK refuses to start without a key. The manager prints it, or its administrator has it.",
        CONNECT_SHELL if world.running else "export E2B_API_KEY=…   # the key of your manager",
    )


@CHECKS.add(
    "key-form",
    "form of the API key",
    """A key that was copied with its quotes, with a blank or a line end, or only in part is another key. The encoded
    form of a key begins with `e2b_6f6b6167` and carries a checksum, so a wrong copy shows. e2b 2.25.0 to 2.45.1 refuse
    every key that is not `e2b_` and hex digits: `patch_e2b()` turns this check of the SDK off, and
    `kruise_agents.keys.encode_key` makes the form that passes also without the patch.""",
)
def _key_form(world: World) -> Finding:
    given = world.environment.get("E2B_API_KEY", "")
    key = world.key
    if not key:
        return skipped("no key is set")
    if key[0] in "'\"`" or key[-1] in "'\"`":
        return broken(
            "quotes around the key",
            "They belong to the shell or to the file that the key came from, and are sent as a part of the key.",
            "export E2B_API_KEY=…   # without quotes inside the value",
        )
    if key.startswith(_ENCODED_BEGINNING) and decode_key(key) is None:
        return broken(
            "an encoded key with a wrong checksum", "The key was copied wrongly or in part.", "copy the key again"
        )
    if given != key:
        return warning(
            "blanks or line ends around the key",
            "The patch drops them. Programs in other languages may send them along, and get 401.",
            'export E2B_API_KEY="$(printf %s "$E2B_API_KEY" | tr -d "[:space:]")"',
        )
    if not _HEX_KEY.fullmatch(key) and _checks_keys():
        return warning(
            "not e2b_ and hex digits",
            f"e2b {installed_release('e2b')} refuses such keys. Under patch_e2b() it takes them; without the patch "
            "the encoded form is needed.",
            "python -c 'import os; from kruise_agents.keys import encode_key; "
            'print(encode_key(os.environ["E2B_API_KEY"]))\'',
        )
    return fine("encoded" if decode_key(key) is not None else "plain")


def _checks_keys() -> bool:
    try:
        first, last = KEY_CHECK
        return first <= Version(installed_release("e2b")) <= last
    except importlib.metadata.PackageNotFoundError:
        return False


@CHECKS.add(
    "variable-names",
    "misspelled variables",
    """The SDK reads `E2B_API_KEY` and `E2B_DOMAIN`. Some examples of others use `E2B_API_TOKEN`, `E2B_ACCESS_TOKEN` or
    `E2B_URL`, which the SDK ignores. The check finds these and other names that begin with `E2B_` and are nearly right,
    where the right variable is not set.""",
)
def _variable_names(world: World) -> Finding:
    meant = {name: right for name in world.environment if (right := _meant(name)) not in (None, name)}
    wrong = {name: right for name, right in meant.items() if right and not world.environment.get(right)}
    if not wrong:
        return fine("none")
    name, right = next(iter(sorted(wrong.items())))
    return broken(
        ", ".join(sorted(wrong)), f"The SDK reads {right}, which is not set.", f'export {right}="${name}"; unset {name}'
    )


def _meant(name: str) -> str | None:
    if name in _OTHER_NAMES:
        return _OTHER_NAMES[name]
    if not name.upper().startswith("E2B") or name in _KNOWN_VARIABLES:
        return None
    likely = difflib.get_close_matches(name.upper(), _KNOWN_VARIABLES, 1, 0.85)
    return likely[0] if likely else None


@CHECKS.add(
    "url-variables",
    "variables with addresses",
    """`E2B_API_URL`, `E2B_SANDBOX_URL` and `E2B_VOLUME_API_URL` come before `E2B_DOMAIN` and before the patch: the SDK
    uses them unchanged. A left-over value sends the program elsewhere, and child processes inherit it. Values that name
    the same manager as the domain do no harm. Unset the others, unless you connect by them on purpose.""",
)
def _url_variables(world: World) -> Finding:
    given = {name: value for name in _URL_VARIABLES if (value := world.environment.get(name, "").strip())}
    if not given:
        return fine("none")
    others = {name: value for name, value in given.items() if not _same_manager(world, name, value)}
    if not others:
        return fine(f"{', '.join(given)} name the domain too")
    unset = f"unset {' '.join(others)}"
    shown = ", ".join(f"{name}={value}" for name, value in others.items())
    for name, value in others.items():
        if trouble := _trouble_of_url(world, value):
            return broken(shown, f"{name} comes before E2B_DOMAIN, and {trouble}.", unset)
    return warning(shown, "The SDK uses these in place of E2B_DOMAIN, and child processes inherit them.", unset)


def _same_manager(world: World, name: str, value: str) -> bool:
    if world.domain is None:
        return False
    schemes = get_args(Scheme)
    same = [api_url(scheme, str(world.domain)) for scheme in schemes]
    if name == "E2B_SANDBOX_URL":
        same += [f"{scheme}://{world.domain}" for scheme in schemes]
    return value.rstrip("/") in same


def _trouble_of_url(world: World, value: str) -> str:
    parts = urlsplit(value)
    scheme: Scheme = "http" if parts.scheme == "http" else "https"
    if parts.scheme not in get_args(Scheme):
        return "its value is no http or https URL"
    try:
        domain = parse_domain(parts.netloc.rpartition("@")[2])
    except DomainError as error:
        return f"its host is wrong: {error}"
    if domain == world.domain and not parts.path.startswith(API_PREFIX):
        return f"it lacks the path {API_PREFIX}"
    if domain.host.removeprefix("api.") in VENDOR_DEFAULTS:
        return "it is an address of E2B"
    look = look_at(scheme, domain, parts.path or "/", seconds=world.seconds())
    return f"nothing answers there: {look.trouble}" if look.trouble is not None else ""


@CHECKS.add(
    "debug-variable",
    "debug mode",
    """With `E2B_DEBUG=true` the SDK asks no manager: a create makes nothing and gives the ID `debug_sandbox_id`, and
    every other call goes to ports of this machine.""",
)
def _debug_variable(world: World) -> Finding:
    value = world.environment.get("E2B_DEBUG", "")
    if value.lower() == "true":
        return broken(f"E2B_DEBUG={value}", "In debug mode the SDK creates no sandbox.", "unset E2B_DEBUG")
    return fine("off")


@CHECKS.add(
    "proxy-variables",
    "proxies",
    """`HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY` also apply to `localhost`, unless `NO_PROXY` lists it. A proxy
    elsewhere cannot reach the ports of this machine. Whether a proxy reaches a manager elsewhere is said by [the way
    through the proxy](#proxy).""",
)
def _proxy_variables(world: World) -> Finding:
    if world.domain is None:
        return skipped("no domain is set")
    if not world.proxies:
        return fine("none applies to the domain")
    proxies = ", ".join(sorted({_without_user(proxy) for proxy in world.proxies.values()}))
    if not world.is_loopback:
        return fine(f"{proxies} applies to the domain")
    return broken(
        proxies, f"The proxy is asked for {world.domain}, which only this machine can reach.", world.without_proxy()
    )


def _without_user(url: str) -> str:
    scheme, mark, rest = url.rpartition("://")
    return scheme + mark + rest.rpartition("@")[2]


@CHECKS.add(
    "certificate-file",
    "trusted authorities",
    """`SSL_CERT_FILE` names the authorities that Python programs trust, in place of the system's. A path that does not
    exist, a file without a certificate, or one whose authorities are all expired makes every https request fail, and
    newer SDKs fail even before. `kruise-agents serve --tls` prints the path of its own authority.""",
)
def _certificate_file(world: World) -> Finding:
    path = world.environment.get("SSL_CERT_FILE")
    folder = world.environment.get("SSL_CERT_DIR")
    if not path:
        if folder and not any(Path(part).is_dir() for part in folder.split(os.pathsep)):
            return broken(f"SSL_CERT_DIR={folder}", "There is no such folder.", "unset SSL_CERT_DIR")
        return fine("the system's")
    shown = f"SSL_CERT_FILE={path}"
    unset = "unset SSL_CERT_FILE   # or set it to the file of your authority"
    try:
        text = Path(path).read_text(errors="replace")
        context = ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        return broken(shown, f"The file holds no certificate that can be read: {error.reason or error}.", unset)
    except OSError as error:
        return broken(shown, f"The file cannot be read: {error.strerror}.", unset)
    if _BEGIN not in text:
        return broken(shown, "The file holds no certificate.", unset)
    ends = [ssl.cert_time_to_seconds(str(authority["notAfter"])) for authority in context.get_ca_certs()]
    if ends and max(ends) < time.time():
        return broken(shown, "Every authority in the file is expired.", unset)
    return fine(f"{shown} ({text.count(_BEGIN)} certificates)")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".")
