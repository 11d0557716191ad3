"""OpenKruise's settings in the metadata of a create call, with keys such as ``e2b.agents.kruise.io/never-timeout``.

Source: OpenKruise's sandbox-manager. A setting that makes no sense on a single machine is refused with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ....protocol.names import EXTENSION_PREFIX, RESERVED_PREFIX
from ..errors import ApiError
from ..formats import read_duration

_NEVER_TIMEOUT = f"{EXTENSION_PREFIX}never-timeout"
_RESERVE_PAUSED = f"{EXTENSION_PREFIX}reserve-paused-sandbox-duration"
_CLAIM_SECONDS = f"{EXTENSION_PREFIX}claim-timeout-seconds"
_READY_SECONDS = f"{EXTENSION_PREFIX}wait-ready-timeout-seconds"
_CREATE_ON_NO_STOCK = f"{EXTENSION_PREFIX}create-on-no-stock"
_RETURN_IP = f"{EXTENSION_PREFIX}return-sandbox-ip"
_KNOWN = {_NEVER_TIMEOUT, _RESERVE_PAUSED, _CLAIM_SECONDS, _READY_SECONDS, _CREATE_ON_NO_STOCK, _RETURN_IP}
_IP = f"{EXTENSION_PREFIX}sandbox-ip"
_OWN_ADDRESS = "127.0.0.1"
_RESERVED = (EXTENSION_PREFIX, RESERVED_PREFIX)
_LABEL = "label:"
_FOREVER = "forever"

_CANNOT_CHANGE = "a running program cannot be given other resources or another image; choose a template that has them"
_NO_CSI = "there are no CSI volumes; make a volume and name it in volumeMounts"
_NOTHING_LEFT = "nothing is left of a sandbox that failed; the error has the last lines of its output"
_REFUSED = {
    "cpu-request": _CANNOT_CHANGE,
    "cpu-limit": _CANNOT_CHANGE,
    "memory-request": "memory inplace update is not supported",
    "memory-limit": "memory inplace update is not supported",
    "image": _CANNOT_CHANGE,
    "csi-volume-name": _NO_CSI,
    "csi-mount-point": _NO_CSI,
    "csi-subpath": _NO_CSI,
    "csi-volume-config": _NO_CSI,
    "skip-init-runtime": "every sandbox is given its settings",
    "reserve-failed-sandbox": _NOTHING_LEFT,
    "reserve-failed-sandbox-for": _NOTHING_LEFT,
    "sandbox-name": "sandboxes have ids that nobody can guess",
    "sandbox-generate-name": "sandboxes have ids that nobody can guess",
}
_DEFAULTS = {
    "skip-init-runtime": ("false",),
    "reserve-failed-sandbox": ("false",),
    "reserve-failed-sandbox-for": ("never", "0", "0s"),
}
"""Values with which a refused key is accepted, because they ask for what happens anyway."""
_LABEL_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Extensions:
    """The settings in the metadata of a create call.

    Args:
        metadata: the metadata that the sandbox keeps. Settings are left out, ``label:`` is cut off the keys of labels,
            and the sandbox's IP address is added if the call asks for the address.
        never_ends: the sandbox has no end time.
        paused_seconds: how long the sandbox may stay paused; None: for ever.
        ready_seconds: how long the start of the sandbox may take; None: there is no limit.
        create_on_no_stock: a new sandbox may be started for the call if no pool has a sandbox ready.
    """

    metadata: Mapping[str, str]
    never_ends: bool
    paused_seconds: float | None
    ready_seconds: float | None
    create_on_no_stock: bool


def read_extensions(metadata: Mapping[str, str]) -> Extensions:
    """Split metadata into settings and the sandbox's own metadata. A wrong key or value raises ApiError 400."""
    own: dict[str, str] = {}
    for key, value in metadata.items():
        if key in _KNOWN:
            continue
        if key.startswith(_LABEL):
            own[_label(key.removeprefix(_LABEL), value)] = value
        elif key.startswith(_RESERVED):
            _refuse(key, value)
        else:
            own[key] = value
    if _flag(metadata, _RETURN_IP):
        own[_IP] = _OWN_ADDRESS
    limits = [seconds for key in (_CLAIM_SECONDS, _READY_SECONDS) if (seconds := _seconds(metadata, key)) > 0]
    return Extensions(
        metadata=own,
        never_ends=_flag(metadata, _NEVER_TIMEOUT),
        paused_seconds=_reserved(metadata.get(_RESERVE_PAUSED)),
        ready_seconds=min(limits) if limits else None,
        create_on_no_stock=_flag(metadata, _CREATE_ON_NO_STOCK, "true"),
    )


def read_reserved_header(headers: Mapping[str, str], name: str) -> float | None:
    """Read from a header how many seconds a paused sandbox is kept: infinity for ``forever``, None without the header.

    A wrong value raises ApiError 400.
    """
    text = headers.get(name)
    if text is None:
        return None
    seconds = _reserved(text)
    return math.inf if seconds is None else seconds


def _reserved(text: str | None) -> float | None:
    if text is None or text == _FOREVER:
        return None
    advice = 'use "forever" for the built-in 100-year retention'
    try:
        seconds = read_duration(text)
    except ValueError as error:
        message = f'Bad extension param: invalid reserve paused sandbox duration "{text}": {error}; {advice}'
        raise ApiError(400, message) from None
    if seconds <= 0:
        raise ApiError(400, f'Bad extension param: reserve paused sandbox duration "{text}" must be positive; {advice}')
    return seconds


def _refuse(key: str, value: str) -> None:
    name = key.removeprefix(EXTENSION_PREFIX)
    reason = _REFUSED.get(name) if key.startswith(EXTENSION_PREFIX) else None
    if reason is None:
        prefixes = " ".join(_RESERVED)
        raise ApiError(400, f"Forbidden metadata key [{key}]: cannot contain prefixes: [{prefixes}]")
    if value not in _DEFAULTS.get(name, ()):
        raise ApiError(400, f"Bad extension param: {key} is not supported by this manager: {reason}")


def _flag(metadata: Mapping[str, str], key: str, default: str = "false") -> bool:
    value = metadata.get(key, default)
    if value not in ("true", "false"):
        raise ApiError(400, f"Bad extension param: {key} must be 'true' or 'false', got '{value}'")
    return value == "true"


def _seconds(metadata: Mapping[str, str], key: str) -> int:
    text = metadata.get(key, "0")
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text) is None:
        raise ApiError(400, f"Bad extension param: invalid number [{text[:60]}]: {key} is a whole number of seconds")
    return int(text)


def _label(name: str, value: str) -> str:
    prefix, slash, last = name.rpartition("/")
    if f"{prefix}/".endswith(("kruise.io/", "kubernetes.io/", "k8s.io/")):
        raise ApiError(400, f"Bad extension param: label name [{name}] is reserved")
    if _LABEL_PART.fullmatch(last) is None or (slash and _LABEL_PREFIX.fullmatch(prefix) is None):
        raise ApiError(400, f"Bad extension param: invalid label name [{name[:320]}]")
    if value and _LABEL_PART.fullmatch(value) is None:
        raise ApiError(400, f"Bad extension param: invalid label value [{value[:80]}]")
    return name
