"""Whether the installed SDK is one that the patch fits, found out before anything is touched."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import types
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from ..errors import UnsupportedSDKError
from .notices import UntestedSDKWarning, notify
from .targets import CODE_INTERPRETER, DESKTOP, E2B, RELIED_ON, TARGETS, Kind, Place, Signature, Target


@dataclass(frozen=True, slots=True)
class Window:
    """The releases of a package, both ends included, that the patch was tested with."""

    package: str
    oldest: str
    newest: str

    def __str__(self) -> str:
        return f"{self.oldest} ... {self.newest}"


WINDOWS: tuple[Window, ...] = (
    Window(E2B, "2.8.0", "2.63.0"),
    Window(CODE_INTERPRETER, "2.4.1", "2.11.5"),
    Window(DESKTOP, "2.1.0", "2.7.2"),
)

_TYPES: dict[Kind, type] = {
    Kind.FUNCTION: types.FunctionType,
    Kind.PROPERTY: property,
    Kind.STATIC_METHOD: staticmethod,
    Kind.NUMBER: int,
}
_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


@dataclass(frozen=True, slots=True)
class InstalledTarget:
    """A target of the table together with the class that it is in."""

    target: Target
    owner: type


def import_sdk() -> dict[str, Version]:
    """Import every module that has a target, and give the versions of the packages that are installed.

    Raises:
        UnsupportedSDKError: ``e2b`` is missing, or a package is older than its window.
    """
    versions = {window.package: version for window in WINDOWS if (version := _installed_version(window)) is not None}
    if E2B not in versions:
        raise UnsupportedSDKError("the package e2b is not installed; pip install e2b")
    for place in _places(versions):
        _module(place)
    return versions


def installed_targets(versions: dict[str, Version]) -> list[InstalledTarget]:
    """Find the targets of the installed SDK, in the order in which they are applied, and check every one.

    Must be called while the SDK is not patched. An SDK that is newer than the tested window and still fits
    gives one :class:`UntestedSDKWarning`.

    Parameters:
        versions: what :func:`import_sdk` gave.

    Raises:
        UnsupportedSDKError: a place is not what the patch expects. The message names packages, versions,
            place, what was expected and what was found.
    """
    owners: dict[Place, type] = {}
    drifts = []
    for place in _places(versions):
        found = _examine(place)
        if isinstance(found, str):
            drifts.append(f"{_label(place)}: expected {_expected(place)}; found {found}")
        else:
            owners[place] = found
    if drifts:
        raise UnsupportedSDKError("\n  ".join([f"cannot patch {_describe(versions)}; nothing was changed.", *drifts]))
    _warn_if_untested(versions)
    return [InstalledTarget(target, owners[target.place]) for target in TARGETS if target.place in owners]


def _installed_version(window: Window) -> Version | None:
    if importlib.util.find_spec(window.package.replace("-", "_")) is None:
        return None
    try:
        version = Version(importlib.metadata.version(window.package))
    except importlib.metadata.PackageNotFoundError:
        raise UnsupportedSDKError(
            f"{window.package} is there but has no package metadata, so its version is unknown; "
            f"install it with pip (tested: {window})"
        ) from None
    if version < Version(window.oldest):
        raise UnsupportedSDKError(
            f"{window.package} {version} is older than every supported release ({window}); upgrade it"
        )
    return version


def _places(versions: dict[str, Version]) -> list[Place]:
    places = (*(target.place for target in TARGETS), *RELIED_ON)
    return [place for place in places if _exists_in(place, versions.get(place.package))]


def _exists_in(place: Place, version: Version | None) -> bool:
    if version is None or version < Version(place.since):
        return False
    return place.until is None or version <= Version(place.until)


def _warn_if_untested(versions: dict[str, Version]) -> None:
    newer = [
        window for window in WINDOWS if window.package in versions and versions[window.package] > Version(window.newest)
    ]
    if newer:
        notify(
            f"{_describe(versions)}: newer than what kruise-agents was tested with. All places to patch look as "
            f"expected, so they are patched; look for a newer kruise-agents",
            UntestedSDKWarning,
        )


def _describe(versions: dict[str, Version]) -> str:
    return ", ".join(
        f"{window.package} {versions[window.package]} (tested: {window})"
        for window in WINDOWS
        if window.package in versions
    )


def _label(place: Place) -> str:
    return " ".join([*(target.seam for target in TARGETS if target.place == place), str(place)])


def _expected(place: Place) -> str:
    article = "an" if place.kind is Kind.INSTANCE_ATTRIBUTE else "a"
    signature = f" {place.signature}" if place.kind is Kind.FUNCTION else ""
    return f"{article} {place.kind}{signature}"


def _examine(place: Place) -> type | str:
    """The class that holds the place, or what was found instead of what is expected."""
    module = _module(place)
    if module is None:
        return f"no module {place.module}"
    owner = vars(module).get(place.owner)
    if not isinstance(owner, type):
        return f"no class {place.owner} in {place.module}"
    misfit = _misfit_of_instances if place.kind is Kind.INSTANCE_ATTRIBUTE else _misfit
    return misfit(owner, place) or owner


def _module(place: Place) -> types.ModuleType | None:
    try:
        return importlib.import_module(place.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place.module}.".startswith(f"{error.name}."):
            raise  # something that the SDK itself needs is missing
        return None


def _misfit(owner: type, place: Place) -> str | None:
    if place.attribute not in vars(owner):
        return "nothing of that name in the class"
    found = vars(owner)[place.attribute]
    if not isinstance(found, _TYPES[place.kind]) or (isinstance(found, property) and found.fget is None):
        return f"a {type(found).__name__}"
    if isinstance(found, types.FunctionType) and not _fits(inspect.signature(found), place.signature):
        return f"a function {inspect.signature(found)}"
    return None


def _misfit_of_instances(owner: type, place: Place) -> str | None:
    """Whether ``__init__`` sets the attribute, and instances have room for the mark.

    Read from the code: making an instance reads the environment and can fail for reasons of its own.
    """
    if "__slots__" in vars(owner):
        return "a class with __slots__"
    code = getattr(vars(owner).get("__init__"), "__code__", None)
    return None if code is not None and place.attribute in code.co_names else "an __init__ without it"


def _fits(found: inspect.Signature, wanted: Signature) -> bool:
    parameters = list(found.parameters.values())[1:]
    names = tuple(_STARS.get(parameter.kind, "") + parameter.name for parameter in parameters)
    if not wanted.complete:
        return set(wanted.names) <= set(names)
    count = len(wanted.names)
    return names[:count] == wanted.names and names[count:] in ((), wanted.optional)
