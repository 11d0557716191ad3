"""Explanations that the patch adds to the texts of errors: what is wrong, and what to do next.

An error keeps its class and attributes; its text gets one more line. :data:`EXPLANATIONS` is the table of all lines:
the first row whose pattern is in what can be seen of an error counts. Only a row that says so looks at the address once
more, without a key and for at most a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..errors import ConfigurationError
from ..probe import Trouble, look_at, manager_kind
from ..protocol.domains import parse_domain

MARK = "\nkruise-agents: "
_LOOK_SECONDS = 1.0
_DOCTOR = "'kruise-agents doctor' looks further"
_OF_CERTIFICATES = (Trouble.UNTRUSTED, Trouble.WRONG_NAME, Trouble.EXPIRED, Trouble.AUTHORITY, Trouble.STRICT)
_NATIVE_HOST = re.compile(r"(api|sandbox|\d+-[^.]+)\.")
_STATED_URLS = ("E2B_API_URL", "E2B_SANDBOX_URL", "E2B_VOLUME_API_URL")


@dataclass(frozen=True, slots=True)
class Sight:
    """The facts that can be seen of an error.

    Attributes:
        text: the texts and class names of an exception and of its causes, or the type and text of a response.
        url: the URL of the request, if it is known.
        status: the status of a response; 0 for an exception.
        key_is_quoted: whether the API key that was sent begins or ends with a quotation mark.
        location: the target of a redirect.
    """

    text: str
    url: SplitResult
    status: int = 0
    key_is_quoted: bool = False
    location: str = ""

    @property
    def server(self) -> str:
        """The host and port of the URL, without a user."""
        return self.url.netloc.rpartition("@")[2] or os.environ.get("E2B_DOMAIN", "") or "the manager"

    @property
    def host(self) -> str:
        return self.url.hostname or _host_of(os.environ.get("E2B_DOMAIN", ""))

    @property
    def proxy(self) -> str:
        """The proxy that a variable names for the URL, without its password; empty if there is none."""
        # Transports of httpx, which e2b had up to 2.37.1, do not read these variables.
        if "error sending request for url" not in self.text and not self.status:
            return ""
        proxies = urllib.request.getproxies()
        proxy = proxies.get(self.url.scheme) or proxies.get("all") or ""
        if not proxy or urllib.request.proxy_bypass(self.url.netloc.rpartition("@")[2]):
            return ""
        return urlsplit(proxy).netloc.rpartition("@")[2] or proxy

    @property
    def origin(self) -> str:
        """A sentence on the variable that the address comes from; empty if that is E2B_DOMAIN."""
        server = self.url.netloc.rpartition("@")[2]
        if os.environ.get("E2B_DEBUG", "").lower() == "true":
            return ". E2B_DEBUG is set, so the SDK talks to a sandbox on this machine and not to your manager: unset it"
        for name in _STATED_URLS:
            if server and urlsplit(os.environ.get(name, "")).netloc.rpartition("@")[2] == server:
                return f". This address comes from {name}: unset it, and the patch makes the address from E2B_DOMAIN"
        own = os.environ.get("E2B_DOMAIN", "")
        if own and self.url.path.startswith("/kruise/") and self.host not in ("", _host_of(own).lower()):
            return (
                f". This address is not that of E2B_DOMAIN ({own}): it comes from domain= in the program or, with "
                f"follow_server_domain=True, from the manager's answers"
            )
        return ""

    @property
    def is_native(self) -> bool:
        """True if the URL is one that the unpatched SDK makes."""
        path = self.url.path
        return bool(_NATIVE_HOST.match(self.host)) and not path.startswith("/kruise/") and not self.origin

    @property
    def wants_tls(self) -> bool:
        """True if the address, asked once more, speaks TLS and not plain http."""
        if self.url.scheme != "http" or self.proxy:
            return False
        with contextlib.suppress(ConfigurationError):
            look = look_at("https", parse_domain(self.server), seconds=_LOOK_SECONDS)
            return look.status > 0 or look.trouble in _OF_CERTIFICATES
        return False

    @property
    def takes_plain_http(self) -> bool:
        """True if an embedded manager on this machine, asked once more, answers plain http on the same port."""
        if self.url.scheme != "https" or self.proxy:
            return False
        with contextlib.suppress(ConfigurationError):
            domain = parse_domain(self.server)
            return domain.is_loopback and manager_kind(look_at("http", domain, seconds=_LOOK_SECONDS)) is not None
        return False


def _host_of(domain: str) -> str:
    return urlsplit(f"//{domain}").hostname or domain


Words = Callable[[Sight], str]


class Source(Enum):
    """Where an error comes from."""

    TRANSPORT = auto()
    SDK = auto()
    ANSWER = auto()


@dataclass(frozen=True, slots=True)
class Explanation:
    """A row of the table: which errors it explains, and with which words.

    Attributes:
        pattern: what the text of the sight has.
        words: the explanation, without a full stop at its end, because the SDK appends sentences to some texts.
        sources: where such errors come from.
        statuses: the statuses of the answers that the row is for.
        looks: whether the words need a look at the address.
    """

    pattern: re.Pattern[str]
    words: Words
    sources: frozenset[Source]
    statuses: frozenset[int] = frozenset()
    looks: bool = False

    def fits(self, source: Source, sight: Sight) -> bool:
        if source not in self.sources or (source is Source.ANSWER and sight.status not in self.statuses):
            return False
        return bool(self.pattern.search(sight.text))


def _of_transport(pattern: str, words: Words, *others: Source, looks: bool = False) -> Explanation:
    return Explanation(re.compile(pattern), words, frozenset({Source.TRANSPORT, *others}), looks=looks)


def _of_sdk(pattern: str, words: Words) -> Explanation:
    return Explanation(re.compile(pattern), words, frozenset({Source.SDK}))


def _of_answer(statuses: str, pattern: str, words: Words) -> Explanation:
    return Explanation(re.compile(pattern), words, frozenset({Source.ANSWER}), frozenset(map(int, statuses.split())))


def _refused(sight: Sight) -> str:
    if sight.is_native:
        return _native(sight)
    if sight.proxy:
        return _through_proxy(sight)
    if sight.origin:
        return f"nobody listens on {sight.server}{sight.origin}"
    return (
        f"nobody listens on {sight.server}. Is the manager running? 'kruise-agents serve' starts one on "
        f"this machine; for a cluster look at the ingress, or at 'kubectl port-forward', which ends with its pod. "
        f"{_DOCTOR}"
    )


def _native(sight: Sight) -> str:
    return (
        f"{sight.server} is an address of the unpatched SDK: this object was made before patch_e2b(), or after "
        f"unpatch_e2b(). Call patch_e2b() first, in each process, and make the object again"
    )


def _through_proxy(sight: Sight) -> str:
    return (
        f"a proxy variable (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) sends requests for {sight.server} to the proxy "
        f"{sight.proxy}, which cannot be reached or does not pass them on. For a manager that needs no proxy: "
        f"export NO_PROXY={sight.host}"
    )


def _no_name(sight: Sight) -> str:
    if sight.is_native:
        return _native(sight)
    if sight.proxy:
        return _through_proxy(sight)
    if sight.origin:
        return f"the name {sight.host!r} has no address on this machine{sight.origin}"
    return (
        f"the name {sight.host!r} has no address on this machine. Correct E2B_DOMAIN, or give the name "
        f"an address (DNS, or /etc/hosts). {_DOCTOR}"
    )


def _plain_http(sight: Sight) -> str:
    if sight.is_native:
        return _native(sight)
    return (
        f"{sight.server} speaks plain http, and the newest call of patch_e2b() asks for https{sight.origin}. "
        f"Call patch_e2b(False), or give the manager a certificate ('kruise-agents serve --tls')"
    )


def _wants_https(sight: Sight) -> str:
    return (
        f"{sight.server} wants https, and the newest call of patch_e2b() asks for plain http. Call patch_e2b(); for a "
        f"certificate of an authority of your own, also export SSL_CERT_FILE=/path/to/ca.pem"
    )


def _closed(sight: Sight) -> str:
    if sight.is_native:
        return _native(sight)
    if sight.wants_tls:
        return _wants_https(sight)
    if sight.proxy:
        return _through_proxy(sight)
    return (
        f"{sight.server} closed the connection without an answer{sight.origin}. The manager has ended or is no "
        f"sandbox-manager, or what stands before it has lost it, such as a 'kubectl port-forward' whose pod is gone. "
        f"{_DOCTOR}"
    )


def _untrusted(sight: Sight) -> str:
    file = os.environ.get("SSL_CERT_FILE")
    state = f"SSL_CERT_FILE is {file}, which does not have it" if file else "SSL_CERT_FILE is not set"
    way = "The port also speaks plain http: patch_e2b(False). For https" if sight.takes_plain_http else ""
    return (
        f"the certificate of {sight.server} is from an authority that this program does not trust; {state}. "
        f"{way or 'If the authority is yours'}: export SSL_CERT_FILE=/path/to/ca.pem "
        f"('kruise-agents serve --tls' prints the path). If that file is right, the server leaves out an intermediate "
        f"certificate. {_DOCTOR}"
    )


def _authority(sight: Sight) -> str:
    return (
        f"the certificate of {sight.server} is an authority's own (CA:TRUE, as 'openssl req -x509' makes it), and TLS "
        f"clients refuse that as a server's. Give the server a certificate below the authority: "
        f"'kruise-agents cert {sight.host}' makes both"
    )


def _wrong_name(sight: Sight) -> str:
    return (
        f"the certificate of {sight.server} is for other names. Set E2B_DOMAIN to one of them, or make a certificate "
        f"for this name: 'kruise-agents cert {sight.host}'"
    )


def _expired(sight: Sight) -> str:
    return (
        f"the certificate of {sight.server} has ended or not begun. Renew it, or set the clock of this machine right. "
        f"{_DOCTOR}"
    )


def _no_authorities(sight: Sight) -> str:
    file = os.environ.get("SSL_CERT_FILE", "")
    if file and not Path(file).is_file():
        return f"SSL_CERT_FILE is {file}, and there is no such file. Correct or unset the variable"
    if file:
        return f"SSL_CERT_FILE is {file}, which has no PEM certificate in it. Correct or unset the variable"
    return "this machine has no certificates of authorities. Install its package ca-certificates, or set SSL_CERT_FILE"


def _lost(sight: Sight) -> str:
    return (
        "the connection was lost during the call: the manager ended, or what stands before it closed the connection (a "
        "proxy's time limit, a 'kubectl port-forward' whose pod is gone). What the call began may still run: connect "
        f"to the sandbox again and look. {_DOCTOR}"
    )


def _no_answer(sight: Sight) -> str:
    return (
        f"no connection to {sight.server} within the time limit: a firewall, or a wrong address{sight.origin}. "
        f"{_DOCTOR}"
    )


def _no_reply(sight: Sight) -> str:
    return (
        f"{sight.server} did not answer in time{sight.origin}. If the work takes longer: request_timeout=. If nothing "
        f"answers there at all, it may be another program, also on one of the two addresses of localhost. {_DOCTOR}"
    )


def _broken_pair(sight: Sight) -> str:
    return (
        "this release of e2b does not fit this one of e2b-code-interpreter, also without the patch: "
        "pip install --upgrade e2b e2b-code-interpreter"
    )


def _web_page(sight: Sight) -> str:
    return (
        "a web server before the manager answered in place of the sandbox. It must pass on all of /kruise/, not "
        "/kruise/api/ alone, in any size and for as long as a call takes. 'kruise-agents doctor --create' looks further"
    )


def _key(sight: Sight) -> str:
    return (
        "under patch_e2b() the key is that of your own sandbox-manager, not one of e2b.dev. Set E2B_API_KEY or "
        "api_key=: 'kruise-agents serve' and 'kruise-agents env' print the key of a manager on this machine; for a "
        "cluster ask whoever runs it"
    )


def _wrong_key(sight: Sight) -> str:
    if sight.key_is_quoted:
        return "the API key has quotation marks at its ends. Remove them from E2B_API_KEY or api_key="
    return (
        f"the API key is not one of the manager at {sight.server}. For a manager on this machine 'kruise-agents env' "
        f"prints the right one (E2B_API_KEY); for a cluster ask whoever runs it"
    )


def _protected(sight: Sight) -> str:
    return (
        "the sandbox is protected by traffic access tokens. Call patch_traffic_access_token() of "
        "kruise_agents.patch_traffic_token besides patch_e2b(), then make or connect the sandbox object again"
    )


def _gone(sight: Sight) -> str:
    return (
        "the sandbox has ended (its time limit, or a kill), or belongs to another key or manager. Sandbox.list() shows "
        "the sandboxes of this key; timeout= of the create and set_timeout() let a sandbox live longer"
    )


def _no_template(sight: Sight) -> str:
    return (
        "templates are TOML files in the folder of 'kruise-agents serve --templates', or SandboxSets of that name on "
        "a cluster"
    )


def _no_builds(sight: Sight) -> str:
    return (
        "this manager builds no templates from the SDK. Write a TOML file for 'kruise-agents serve --templates' "
        "(docs/guides/templates.md), or a SandboxSet on a cluster"
    )


def _no_volumes(sight: Sight) -> str:
    return (
        "this manager has no volumes for the SDK. 'kruise-agents serve' has some; a cluster has those of its templates"
    )


def _no_manager(sight: Sight) -> str:
    if sight.proxy:
        return _through_proxy(sight)
    return (
        f"a proxy or load balancer at {sight.server} answered {sight.status}, because it does not reach the manager "
        f"behind it. Look whether the manager runs, and whether the proxy has its address. {_DOCTOR}"
    )


def _moved(sight: Sight) -> str:
    return (
        f"{sight.server} sends requests on to {sight.location or 'another place'} ({sight.status}), and the SDK does "
        f"not follow{sight.origin}. If the API is there, set E2B_DOMAIN to its host and port, and call patch_e2b() for "
        f"https; if it is a login page, ask for a way past it. {_DOCTOR}"
    )


def _no_api(sight: Sight) -> str:
    if sight.proxy:
        return _through_proxy(sight)
    return (
        f"{sight.server} answered {sight.status} with something else than JSON, so no API of a sandbox-manager is at "
        f"{sight.url.path}{sight.origin}. Check E2B_DOMAIN, and what stands before the manager, such as a login page. "
        f"{_DOCTOR}"
    )


_NO_ROUTE = r"404 page not found|[Mm]ethod [Nn]ot [Aa]llowed"
_PLAIN = r"text/plain|text/html|no content type"

EXPLANATIONS: tuple[Explanation, ...] = (
    # Exceptions of transports: e2b speaks through httpx up to 2.37.1, and through pyqwest (rustls) from 2.35.0 on.
    _of_transport(
        r"InvalidContentType|WRONG_VERSION_NUMBER|wrong version number|packet length too long|record layer failure",
        _plain_http,
    ),
    _of_transport(r"CaUsedAsEndEntity", _authority),
    _of_transport(r"not valid for name|NotValidForName|Hostname mismatch|IP address mismatch", _wrong_name),
    _of_transport(r"certificate has expired|certificate expired|not valid yet|not yet valid", _expired),
    _of_transport(r"UnknownIssuer|unable to get (local )?issuer|self[- ]signed certificate", _untrusted, looks=True),
    _of_transport(r"No CA certificates were loaded|FileNotFoundError|NO_CERTIFICATE_OR_CRL_FOUND", _no_authorities),
    _of_transport(r"dns error|gaierror|[Nn]ame or service not known|name resolution|nodename nor servname", _no_name),
    _of_transport(r"Connection refused|ConnectionRefusedError", _refused),
    _of_transport(r"tunnel error|unsuccessful tunnel|proxy authentication", _through_proxy),
    _of_transport(
        # The SDK has asked whether the sandbox lives, and says so if it was killed meanwhile.
        r"(?s)^(?!.*sandbox was killed).*"
        r"(unexpected EOF|peer closed connection|end of file before message|reading a body|incomplete chunk)",
        _lost,
        Source.SDK,
    ),
    _of_transport(
        r"closed before message completed|Server disconnected|ConnectionResetError|[Cc]onnection reset|SendRequest"
        r"|tls handshake eof|EOF occurred in violation|EndOfStream|BrokenResourceError",
        _closed,
        looks=True,
    ),
    _of_transport(r"ConnectTimeout|connect timed? ?out|tcp connect error: deadline", _no_answer),
    _of_transport(r"\bReadTimeout: |url \(\S+\): operation timed out", _no_reply),
    _of_transport(
        r"get_transport\(\) got an unexpected keyword argument 'http2'|"
        r"get_sandbox_url\(\) got an unexpected keyword argument 'port'|"
        r"'(Async)?Sandbox' object has no attribute '_transport'",
        _broken_pair,
    ),
    # Exceptions of the SDK.
    _of_sdk(r"(?i)^\w+: (Code\.\w+|\d{3}\b[\w -]*): ?<(html|!doctype)", _web_page),
    _of_sdk(r"API key is required|Either api_key or access_token is required", _key),
    _of_sdk(r"invalid or missing traffic access token|traffic access token does not match", _protected),
    _of_sdk(r"Paused sandbox \S+ not found|[Ss]andbox \S+ not found|[Ss]andbox \S+ doesn't exist", _gone),
    # Answers of the API, or of what stands before it.
    _of_answer("401", r"(?i)json|api.?key", _wrong_key),
    _of_answer("400 404", r"template '?\S+'? not found|Template or Checkpoint not found", _no_template),
    _of_answer("400 404 405 501", rf"(?s)/v[23]/templates.*({_NO_ROUTE})", _no_builds),
    _of_answer("404 405 501", rf"(?s)/volumes.*({_NO_ROUTE})", _no_volumes),
    _of_answer("400 497", r"HTTP request was sent to HTTPS port|HTTP request to an HTTPS server", _wants_https),
    _of_answer("301 302 303 307 308", "", _moved),
    _of_answer("502 503 504", _PLAIN, _no_manager),
    _of_answer("200 201 202 203 204 400 401 403 404 405 500", _PLAIN, _no_api),
)


def explanation_of(source: Source, sight: Sight) -> Explanation | None:
    """Return the row of the table that counts, or None if no row fits."""
    return next((row for row in EXPLANATIONS if row.fits(source, sight)), None)


def explain(error: BaseException, url: str = "") -> None:
    """Append an explanation to the text of a transport's exception, unless it has one; may look at the address."""
    sight = None if _is_of_sdk(error) else _sight_of(error, url)
    if sight is not None and (row := explanation_of(Source.TRANSPORT, sight)) is not None:
        _append(error, row.words(sight))


async def explain_async(error: BaseException, url: str = "") -> None:
    """Do as :func:`explain` does, and let the event loop run meanwhile."""
    sight = None if _is_of_sdk(error) else _sight_of(error, url)
    if sight is not None and (row := explanation_of(Source.TRANSPORT, sight)) is not None:
        looks = row.looks and _has_asyncio()
        _append(error, await asyncio.to_thread(row.words, sight) if looks else row.words(sight))


def explain_sdk(error: BaseException) -> None:
    """Append an explanation to the text of an exception that the SDK has made."""
    sight = _sight_of(error, "")
    if sight is not None and (row := explanation_of(Source.SDK, sight)) is not None:
        _append(error, row.words(sight))


def _is_of_sdk(error: BaseException) -> bool:
    """Return True for an exception that the SDK has made of another one; it was explained when it was made."""
    return type(error).__module__.partition(".")[0] in ("e2b", "e2b_code_interpreter")


def _has_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # pyqwest runs under trio too
        return False
    return True


def _sight_of(error: BaseException, url: str) -> Sight | None:
    if MARK in str(error):
        return None
    text = "\n".join(_texts(error))
    if not url and (found := re.search(r"for url \((\S+?)\)", text)):
        url = found[1]
    return Sight(text, _split(url))


def _texts(error: BaseException | None) -> Iterator[str]:
    """Give the texts of an exception and of its causes. The context is a cause in httpcore, and chance elsewhere."""
    while error is not None:
        yield f"{type(error).__name__}: {error}"
        if isinstance(error, BaseExceptionGroup):
            for part in error.exceptions:
                yield from _texts(part)
        is_httpcore = type(error).__module__.startswith("httpcore")
        error = error.__cause__ or (error.__context__ if is_httpcore else None)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _append(error: BaseException, words: str) -> None:
    if isinstance(error, OSError) and error.errno is not None and error.strerror is not None:
        error.strerror = f"{error.strerror}{MARK}{words}"  # such an error shows this attribute, and not its arguments
        return
    first: Any = error.args[0] if error.args else ""
    error.args = (f"{first}{MARK}{words}", *error.args[1:])


def explanation_of_answer(
    status: int, url: str, kind: str, text: str, *, key_is_quoted: bool = False, location: str = ""
) -> str | None:
    """Return the words about a response with this status, content type and text; None if there are none."""
    parts = _split(url)
    sight = Sight(f"{parts.path}\n{kind or 'no content type'}\n{text}", parts, status, key_is_quoted, location)
    row = explanation_of(Source.ANSWER, sight)
    return None if row is None else row.words(sight)
