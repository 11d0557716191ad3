"""Translation of the SDK's requests for a sandbox-manager without v2 routes, as pure functions.

What such a manager reads stands in ``protocol/openkruise.py``. Paths begin after the base URL of the API.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from ...protocol.openkruise import (
    ALL_TRAFFIC,
    CREATE,
    DEFAULT_TIMEOUT,
    LIST,
    PAUSE,
    PERSISTENT_CONTENTS_HEADER,
    ROUTES,
    SNAPSHOT,
    TAKEN_FOR_IDS,
    UPDATE_NETWORK,
    Route,
    route_at,
    unread_fields,
    unread_query,
)
from .v1_list import Selection

_NAMES = {
    "aliases": "looking up a template by its name",
    "builds": "the state of a template build",
    "files": "uploading files of a template build",
    "fork": "forking a sandbox",
    "logs": "sandbox logs",
    "metrics": "sandbox metrics",
    "refreshes": "refreshing a sandbox",
    "tags": "template tags",
    "traffic-access-token": "traffic access tokens over the native protocol",
}
IDEMPOTENCY_KEY = "Idempotency-Key"


class Loss(Enum):
    """A difference in what a manager without v2 routes does for a call. The program is warned once about each."""

    PAUSE = (
        "a pause ends the pod of a sandbox. Processes, variables and files outside of volumes are gone when the "
        "sandbox runs again, unless the cluster keeps them. Save to a volume what must stay"
    )
    NAME = "a snapshot gets no name. Use the snapshot_id of the answer"
    KEY = "an idempotency key means nothing. A repeated create makes a second sandbox"


@dataclass(frozen=True)
class OlderCall:
    """A request as a manager without v2 routes needs it. A value of None, or an empty one, changes nothing.

    Attributes:
        path: the path of a route of the manager that does the same.
        feature: the request's name in errors, if the manager would misread the request at the SDK's path.
        ignored: the names of everything that the manager would ignore; the request must not be sent if there is any.
        selection: the part of a list that the client selects from the manager's answers.
    """

    path: str | None = None
    query: Mapping[str, str] | None = None
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    feature: str | None = None
    ignored: Sequence[str] = ()
    losses: Sequence[Loss] = ()
    selection: Selection | None = None

    @property
    def is_changed(self) -> bool:
        """Return whether sending the request as it is would be wrong."""
        changes = (self.path, self.query, self.body, self.feature, self.selection)
        return any(change is not None for change in changes) or bool(self.headers or self.ignored)


def older_call(
    method: str, path: str, query: str, headers: Mapping[str, str], body: bytes, *, private: bool
) -> OlderCall:
    """Return what a manager without v2 routes needs instead of a request. ``headers`` must ignore case."""
    older = v1_path(method, path)
    route = route_at(method, older or path, private=private)
    if route is None or (method, path) in TAKEN_FOR_IDS:
        return OlderCall(path=_template_path(method, path), feature=misread(method, path, private=private))
    pairs = parse_qsl(query, keep_blank_values=True)
    if route is LIST:
        return _list(pairs)
    ignored = unread_query(route, [key for key, _ in pairs])
    fields = _object(body)
    if fields is None:
        return OlderCall(path=older, ignored=ignored)  # the manager refuses such a body
    call = _with_body(route, fields, headers, from_v2=older is not None)
    return OlderCall(
        path=older,
        body=json.dumps(call.fields, separators=(",", ":")).encode() if call.fields != fields else None,
        headers=call.headers,
        ignored=[*ignored, *map(_shown, call.unread.items())],
        losses=call.losses,
    )


def v1_path(method: str, path: str) -> str | None:
    """Return an older manager's path for a v2 request that creates a sandbox or connects to one; None for others."""
    match method, path.split("/"):
        case "POST", ["", "v2", "sandboxes"]:
            return "/sandboxes"
        case "POST", ["", "v2", "sandboxes", sandbox_id, "connect"] if sandbox_id:
            return f"/sandboxes/{sandbox_id}/connect"
    return None


def _template_path(method: str, path: str) -> str | None:
    """Return ``/templates/<name>`` for a look-up by name, because older managers use a template's name as its ID."""
    match method, path.split("/"):
        case "GET", ["", "templates", "aliases", name] if name:
            return f"/templates/{name}"
    return None


def misread(method: str, path: str, *, private: bool) -> str | None:
    """Return a call's name, for errors, if an older manager lacks its route but may give it to another; else None."""
    known = route_at(method, path, private=private) is not None and (method, path) not in TAKEN_FOR_IDS
    if known or not any(route.is_above(path) or (method, path) in TAKEN_FOR_IDS for route in ROUTES):
        return None
    named = (_NAMES[part] for part in path.split("/")[2:] if part in _NAMES)
    return next(named, f"{method} {path}")


@dataclass
class _Translation:
    fields: dict[str, Any]
    unread: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=list)


def _with_body(route: Route, fields: Mapping[str, Any], headers: Mapping[str, str], *, from_v2: bool) -> _Translation:
    call = _Translation(dict(fields), dict(unread_fields(route, fields)))
    if from_v2 and fields.get("timeout") is None:
        call.fields["timeout"] = DEFAULT_TIMEOUT
    if route is CREATE:
        if from_v2:
            call.fields["secure"] = True
        if call.unread.pop("allow_internet_access", None) is False:
            call.fields["network"] = _without_internet(fields.get("network") or {})
        if fields.get("autoPause"):
            call.losses.append(Loss.PAUSE)
        if IDEMPOTENCY_KEY in headers:
            call.losses.append(Loss.KEY)
    elif route is UPDATE_NETWORK and call.unread.pop("allow_internet_access", None) is False:
        call.fields = _without_internet(fields)
    elif route is PAUSE:
        call.losses.append(Loss.PAUSE)
    elif route is SNAPSHOT:
        if call.unread.pop("name", None):
            call.losses.append(Loss.NAME)
        _choose_contents(call, headers)
    return call


def _without_internet(network: Any) -> Any:
    """Return the rules with ``0.0.0.0/0`` in ``denyOut``: what ``allow_internet_access: false`` means in e2b 2.63.0."""
    denied = network.get("denyOut") or [] if isinstance(network, dict) else None
    if not isinstance(denied, list) or ALL_TRAFFIC in denied:
        return network
    return {**network, "denyOut": [*denied, ALL_TRAFFIC]}


def _choose_contents(call: _Translation, headers: Mapping[str, str]) -> None:
    memory = call.unread.get("memory")
    if not isinstance(memory, bool):
        return
    contents = {"filesystem", "memory"} if memory else {"filesystem"}
    given = headers.get(PERSISTENT_CONTENTS_HEADER)
    if given is None:
        call.headers[PERSISTENT_CONTENTS_HEADER] = ",".join(sorted(contents))
    if given is None or {part.strip() for part in given.split(",")} == contents:
        del call.unread["memory"]


def _list(pairs: Sequence[tuple[str, str]]) -> OlderCall:
    query = dict(reversed(pairs))  # the manager reads the first of equal keys
    asked = {key: query.pop(key) for key in unread_query(LIST, list(query))}
    filters, others = _readable_filters(query.pop("metadata", ""))
    if filters:
        query["metadata"] = filters
    selection, ignored = Selection.read(asked, others, query.get("nextToken", ""))
    return OlderCall(query=query if query != dict(pairs) else None, ignored=ignored, selection=selection)


def _readable_filters(text: str) -> tuple[str, dict[str, str]]:
    """Return the value of ``metadata`` that the manager reads rightly, and the pairs that no value can express.

    The SDK quotes each key and value and form-encodes the pairs (e2b 2.8.0 ... 2.63.0). The manager removes only the
    second of these encodings, and splits the result at each ``&``.
    """
    pairs = {unquote(key): unquote(value) for key, value in parse_qsl(text, keep_blank_values=True)}
    others = {key: value for key, value in pairs.items() if "&" in f"{key}{value}" or "=" in key}
    readable = {key: value for key, value in pairs.items() if key not in others}
    return urlencode(readable), others


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        fields = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else None


def _shown(item: tuple[str, Any]) -> str:
    name, value = item
    return f"{name}: false" if value is False else name


def is_no_route(status: int, body: bytes) -> bool:
    """Return whether an answer shows that the manager has no such route: 405, or 404 without a JSON object."""
    return status == 405 or (status == 404 and not _is_object(body))


def is_refused_body(status: int, body: bytes) -> bool:
    """Return whether an answer shows that a handler refused the body: 400 or 422, with a JSON object."""
    return status in (400, 422) and _is_object(body)


def _is_object(body: bytes) -> bool:
    return bool(body) and _object(body) is not None
