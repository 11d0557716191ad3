"""Everything that checks look at: options, variables, and answers, each fetched once for all checks."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..embedded import Connection, default_state_dir, running_manager
from ..errors import DomainError, KruiseAgentsError
from ..probe import CERTIFICATE_TROUBLES, HEALTH, Look, ManagerKind, Trouble, look_at, manager_kind
from ..protocol.addresses import API_PREFIX, Scheme
from ..protocol.domains import Domain, parse_domain
from ..protocol.names import API_KEY_HEADER

CONNECT_SHELL = 'eval "$(kruise-agents env)"'
"""The line that connects a shell to the embedded manager that runs on this machine."""
LIST = f"{API_PREFIX}/v2/sandboxes"
_TLS_TROUBLES = CERTIFICATE_TROUBLES | {Trouble.TLS}
_LONGEST_LOOK = 4.0
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Options:
    """The options of the command. ``scheme`` is None if the doctor is to find the scheme out."""

    domain: str | None = None
    scheme: Scheme | None = None
    create: bool = False
    template: str | None = None
    kubectl: bool = False
    namespace: str = "sandbox-system"
    context: str | None = None
    seconds: float = 10.0


class Once(Generic[_Value]):
    """A value that the first caller computes, and for which callers in other threads wait."""

    def __init__(self, compute: Callable[[], _Value]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._values: list[_Value] = []

    def __call__(self) -> _Value:
        with self._lock:
            if not self._values:
                self._values.append(self._compute())
            return self._values[0]


@dataclass
class World:
    """The world as the checks see it.

    Attributes:
        problem: why ``domain`` is None although a domain was given.
        proxies: for each scheme the proxy through which the SDK sends a request to the domain.
    """

    options: Options
    environment: Mapping[str, str]
    domain_text: str = ""
    domain: Domain | None = None
    problem: str = ""
    proxies: dict[Scheme, str] = field(default_factory=dict)
    _deadline: float = 0.0
    _cache: dict[object, Once[Any]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._deadline = time.monotonic() + self.options.seconds
        self.domain_text = self.options.domain or self.environment.get("E2B_DOMAIN", "")
        if self.domain_text.strip():
            try:
                self.domain = parse_domain(self.domain_text)
            except DomainError as error:
                self.problem = str(error)
        if self.domain is not None:
            self.proxies = proxies_for(self.domain, self.environment)

    @property
    def key(self) -> str:
        """The API key as the patch sends it: without blanks around it."""
        return self.environment.get("E2B_API_KEY", "").strip()

    @property
    def running(self) -> Connection | None:
        """The embedded manager of the usual state folder, if one runs on this machine."""
        return self.once("running", self._running)

    def _running(self) -> Connection | None:
        given = self.environment.get("KRUISE_AGENTS_STATE_DIR")
        try:
            return running_manager(Path(given) if given else default_state_dir())
        except KruiseAgentsError:
            return None

    @property
    def own(self) -> Connection | None:
        """That manager, if it is the one of the domain."""
        return self.running if self.running is not None and self.running.domain == str(self.domain) else None

    @property
    def is_loopback(self) -> bool:
        return self.domain is not None and self.domain.is_loopback

    def without_proxy(self) -> str:
        """Return the command that keeps requests for the domain away from proxies."""
        listed = self.environment.get("no_proxy") or self.environment.get("NO_PROXY", "")
        own = [self.domain.host] if self.domain is not None else []
        loopback = ["localhost", "127.0.0.1", "::1"] if self.is_loopback else []
        hosts = ",".join(dict.fromkeys([*filter(None, listed.split(",")), *own, *loopback]))
        return f"export NO_PROXY={hosts} no_proxy={hosts}"

    def once(self, name: object, compute: Callable[[], _Value]) -> _Value:
        """Return ``compute()`` of the first call with this name."""
        with self._lock:
            known = self._cache.setdefault(name, Once(compute))
        return known()  # type: ignore[no-any-return]  # names are used for one type each

    def seconds(self, most: float = _LONGEST_LOOK) -> float:
        """Return the time for the next step: ``most``, or what is left."""
        return max(min(most, self._deadline - time.monotonic()), 0.05)

    def seconds_more(self, seconds: float) -> None:
        """Give the steps that follow this much time from now on."""
        self._deadline = time.monotonic() + seconds

    def look(self, scheme: Scheme, *, direct: bool = False) -> Look | None:
        """Return the answer of the health route, or None without a domain. ``direct``: not through a proxy."""
        domain, proxy = self.domain, None if direct else self.proxies.get(scheme)
        if domain is None:
            return None
        return self.once(
            ("health", scheme, proxy), lambda: look_at(scheme, domain, HEALTH, seconds=self.seconds(), proxy=proxy)
        )

    @property
    def scheme(self) -> Scheme | None:
        """The scheme of the options, else the one that answers, else None.

        Where both schemes answer, https is taken. A wrong certificate is the answer of https if nothing speaks http.
        """
        return self.options.scheme or self.once("scheme", self._answering)

    def _answering(self) -> Scheme | None:
        found = self._scheme_of(direct=False)
        if self.proxies and (found is None or not _is_manager(self.look(found))):
            behind = self._scheme_of(direct=True)
            if behind is not None and _is_manager(self.look(behind, direct=True)):
                return behind
        return found

    def _scheme_of(self, *, direct: bool) -> Scheme | None:
        threading.Thread(
            target=self.look, args=("http",), kwargs={"direct": direct}, daemon=True
        ).start()  # both at once
        https, http = self.look("https", direct=direct), self.look("http", direct=direct)
        if https is None or http is None:
            return None
        if https.trouble is None:
            return "https"
        if http.trouble is None and not (http.is_redirect and https.trouble in _TLS_TROUBLES):
            return "http"
        return "https" if https.trouble in _TLS_TROUBLES else None

    @property
    def proxy(self) -> str | None:
        """The proxy that the manager is asked through. None also where only the way without it reaches a manager."""
        scheme = self.scheme
        given = None if scheme is None else self.proxies.get(scheme)
        if scheme is None or given is None or _is_manager(self.look(scheme)):
            return given
        return None if _is_manager(self.look(scheme, direct=True)) else given

    @property
    def health(self) -> Look | None:
        """The answer of the health route, or None if no request got an answer."""
        scheme = self.scheme
        found = None if scheme is None else self.look(scheme, direct=self.proxy is None)
        return found if found is not None and found.trouble is None else None

    @property
    def listing(self) -> Look | None:
        """The answer to a list of sandboxes without a key."""
        return self.ask(f"{LIST}?limit=1")

    @property
    def kind(self) -> ManagerKind | None:
        """The kind of manager that answers, or None if no manager does."""
        health, listing = self.health, self.listing
        if health is None or listing is None or listing.trouble is not None or not speaks_json(listing):
            return None
        return manager_kind(health)

    def ask(self, path: str, *, method: str = "GET", with_key: bool = False) -> Look | None:
        """Send a request to the manager, and return its outcome; None if nothing answers at the domain."""
        domain, health = self.domain, self.health
        if domain is None or health is None:
            return None
        headers = {API_KEY_HEADER: self.key} if with_key else {}
        proxy = self.proxy

        def send() -> Look:
            return look_at(
                health.scheme, domain, path, method=method, headers=headers, seconds=self.seconds(), proxy=proxy
            )

        return self.once((method, path, with_key), send)

    def ask_json(self, path: str) -> Any:
        """Return the JSON of an answer to a request with the key, or None if there is no such answer.

        The key goes only to what has proved to be a manager.
        """
        found = self.ask(path, with_key=True) if self.kind is not None and self.key else None
        if found is None or found.trouble is not None or found.status != 200:
            return None
        return parsed_json(found)


def _is_manager(look: Look | None) -> bool:
    return look is not None and manager_kind(look) is not None


def speaks_json(look: Look) -> bool:
    """Return whether an answer says that it is JSON, and is."""
    return look.headers.get("content-type", "").startswith("application/json") and parsed_json(look) is not None


def parsed_json(look: Look) -> Any:
    """Return the JSON in an answer, or None."""
    try:
        return json.loads(look.body)
    except (ValueError, RecursionError):
        return None


def proxies_for(domain: Domain, environment: Mapping[str, str]) -> dict[Scheme, str]:
    """Return the proxies that the variables name for a domain. Lower-case names come before upper-case names."""
    given: dict[str, str] = {}
    for name, value in sorted(environment.items()):  # upper case first
        if name.lower().endswith("_proxy") and (value or name.islower()):
            given[name.lower().removesuffix("_proxy")] = value
    if urllib.request.proxy_bypass_environment(str(domain), given):  # type: ignore[attr-defined]  # not in typeshed
        return {}
    schemes: tuple[Scheme, ...] = ("https", "http")
    found = {scheme: given.get(scheme) or given.get("all", "") for scheme in schemes}
    return {scheme: proxy for scheme, proxy in found.items() if proxy}
