"""OpenKruise's metadata keys on a create call: those that make sense on one machine, and those refused by name.

Lifetimes have their own (``lifetimes.py``). Source: ``e2b.agents.kruise.io/...`` of OpenKruise's sandbox-manager.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import ApiError
from .lifetimes import EXTENSION, LIFETIME_KEYS, read_flag

_CLAIM_SECONDS = f"{EXTENSION}claim-timeout-seconds"
_READY_SECONDS = f"{EXTENSION}wait-ready-timeout-seconds"
_CREATE_ON_NO_STOCK = f"{EXTENSION}create-on-no-stock"
_RETURN_IP = f"{EXTENSION}return-sandbox-ip"
_IP = f"{EXTENSION}sandbox-ip"
_OWN_ADDRESS = "127.0.0.1"
_RESERVED = (EXTENSION, "agents.kruise.io/")
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
    name = key.removeprefix(EXTENSION)
    why = _REFUSED.get(name) if key.startswith(EXTENSION) else None
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
