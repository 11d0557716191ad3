"""OpenKruise's metadata keys on a create call: those that make sense on one machine, and those refused by name.

Lifetimes have their own (``lifetimes.py``). Source: ``e2b.agents.kruise.io/...`` of OpenKruise's sandbox-manager.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ....protocol.names import EXTENSION_PREFIX, RESERVED_PREFIX
from ...sandboxes.sandbox import Lifetime
from ..errors import ApiError
from ..reading import Fields, read_duration

MAX_TIMEOUT = 2_592_000
NEVER_TIMEOUT = f"{EXTENSION_PREFIX}never-timeout"
RESERVE_PAUSED = f"{EXTENSION_PREFIX}reserve-paused-sandbox-duration"
LIFETIME_KEYS = frozenset({NEVER_TIMEOUT, RESERVE_PAUSED})
RESERVE_PAUSED_HEADER = "x-e2b-kruise-reserve-paused-sandbox-duration"
_FOREVER = "forever"
_CLAIM_SECONDS = f"{EXTENSION_PREFIX}claim-timeout-seconds"
_READY_SECONDS = f"{EXTENSION_PREFIX}wait-ready-timeout-seconds"
_CREATE_ON_NO_STOCK = f"{EXTENSION_PREFIX}create-on-no-stock"
_RETURN_IP = f"{EXTENSION_PREFIX}return-sandbox-ip"
_IP = f"{EXTENSION_PREFIX}sandbox-ip"
_OWN_ADDRESS = "127.0.0.1"
_RESERVED = (EXTENSION_PREFIX, RESERVED_PREFIX)
_LABEL = "label:"

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
_MEANS_NOTHING = {
    "skip-init-runtime": ("false",),
    "reserve-failed-sandbox": ("false",),
    "reserve-failed-sandbox-for": ("never", "0", "0s"),
}
"""Values of these that ask for what happens anyway."""
_OURS = {*LIFETIME_KEYS, _CLAIM_SECONDS, _READY_SECONDS, _CREATE_ON_NO_STOCK, _RETURN_IP}
_LABEL_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Extensions:
    """What the keys of a create call ask for, beside its life."""

    metadata: Mapping[str, str]
    """What the sandbox keeps and shows: without the keys, with labels under their own names."""
    seconds: float | None = None
    """How long it may take until the sandbox is ready; None: as long as it takes."""
    create_on_no_stock: bool = True
    """Whether a sandbox may be made for the call, if no warm one waits."""


def read_extensions(given: Mapping[str, str]) -> Extensions:
    """Take a create call's metadata apart.

    Raises:
        ApiError: 400, naming the key and what is wrong with it.
    """
    metadata: dict[str, str] = {}
    for key, value in given.items():
        if key in _OURS:
            continue
        if key.startswith(_LABEL):
            metadata[_label(key.removeprefix(_LABEL), value)] = value
        elif key.startswith(_RESERVED):
            _refuse(key, value)
        else:
            metadata[key] = value
    if read_flag(given, _RETURN_IP):
        metadata[_IP] = _OWN_ADDRESS
    limits = [seconds for key in (_CLAIM_SECONDS, _READY_SECONDS) if (seconds := _seconds(given, key)) > 0]
    return Extensions(
        metadata=metadata,
        seconds=min(limits) if limits else None,
        create_on_no_stock=read_flag(given, _CREATE_ON_NO_STOCK, "true"),
    )


def _refuse(key: str, value: str) -> None:
    name = key.removeprefix(EXTENSION_PREFIX)
    why = _REFUSED.get(name) if key.startswith(EXTENSION_PREFIX) else None
    if why is None:
        prefixes = " ".join(_RESERVED)
        raise ApiError(400, f"Forbidden metadata key [{key}]: cannot contain prefixes: [{prefixes}]")
    if value not in _MEANS_NOTHING.get(name, ()):
        raise ApiError(400, f"Bad extension param: {key} is not supported by this manager: {why}")


def _seconds(given: Mapping[str, str], key: str) -> int:
    text = given.get(key, "0")
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


def read_lifetime(fields: Fields, metadata: Mapping[str, str], seconds: float) -> Lifetime:
    """The lifetime that a create call asks for.

    Raises:
        ApiError: 400, naming what cannot be.
    """
    pause_at_end = fields.flag("autoPause") is True
    keeps_memory = fields.flag("autoPauseMemory") is not False
    wakes = _wakes(fields.object("autoResume"))
    if not keeps_memory and not pause_at_end:
        raise ApiError(400, "autoPauseMemory=false only applies when autoPause is true.")
    if not keeps_memory and wakes:
        raise ApiError(
            400,
            "autoPauseMemory=false (filesystem-only auto-pause) cannot be combined with autoResume: a filesystem-only "
            "snapshot cannot be auto-resumed by traffic and must be resumed explicitly.",
        )
    return Lifetime(
        seconds=seconds,
        never_ends=read_flag(metadata, NEVER_TIMEOUT),
        pause_at_end=pause_at_end,
        pause_keeps_memory=keeps_memory,
        wakes_on_traffic=wakes,
        paused_seconds=read_reserved(metadata.get(RESERVE_PAUSED)),
    )


def read_reserved(text: str | None) -> float | None:
    """How long a paused sandbox is kept, in seconds; None: for ever, which is also what no value means.

    Raises:
        ApiError: 400 for a value that is neither ``forever`` nor a duration above zero.
    """
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


def read_reserved_header(text: str | None) -> float | None:
    """The same from a pause's header: None when it is not there, infinity for ``forever``, which it may say too."""
    if text is None:
        return None
    seconds = read_reserved(text)
    return math.inf if seconds is None else seconds


def _wakes(wish: Fields) -> bool:
    """``{"enabled": true}``; e2b 2.14 wrote ``{"policy": "any"}``."""
    if "policy" in wish.names():
        policy = wish.text("policy")
        if policy not in ("any", "off"):
            raise ApiError(400, f"field 'autoResume.policy' must be 'any' or 'off', got '{policy}'")
        return policy == "any"
    return wish.flag("enabled") is True


def read_flag(metadata: Mapping[str, str], key: str, default: str = "false") -> bool:
    """Whether an extension key says ``true``; ``default`` counts when it is not there.

    Raises:
        ApiError: 400 for any other value.
    """
    value = metadata.get(key, default)
    if value not in ("true", "false"):
        raise ApiError(400, f"Bad extension param: {key} must be 'true' or 'false', got '{value}'")
    return value == "true"
