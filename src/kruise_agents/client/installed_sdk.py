"""Whether the installed SDK is one that the patch fits, found out before anything is touched."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import types
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from ..errors import UnsupportedSDKError
from .addresses.table import ADDRESSES, CODE_INTERPRETER, DESKTOP, E2B, Kind, Place, Table, Target
from .warnings import UntestedSDKWarning, notify


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
    Kind.CLASS_METHOD: classmethod,
    Kind.METHOD_OF_BOTH: object,
    Kind.NUMBER: int,
}
_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


Owner = type | types.ModuleType
"""What holds a place: a class, or a module for a global name."""


@dataclass(frozen=True, slots=True)
class InstalledTarget:
    """A target of the table together with what holds it."""

    target: Target
    owner: Owner


def import_sdk(table: Table = ADDRESSES) -> dict[str, Version]:
    """Import every module that has a target, and give the versions of the packages that are installed.

    Parameters:
        table: which patch this is for.

    Raises:
        UnsupportedSDKError: ``e2b`` is missing, or a package is older than its window.
    """
    versions = {window.package: version for window in WINDOWS if (version := _installed_version(window)) is not None}
    if E2B not in versions:
        raise UnsupportedSDKError("the package e2b is not installed; pip install e2b")
    for place in _places(table, versions):
        _module(place)
    return versions


def installed_targets(versions: dict[str, Version], table: Table = ADDRESSES) -> list[InstalledTarget]:
    """Find the targets of the installed SDK, in the order in which they are applied, and check every one.

    Must be called while this table is not applied; another one may be. An SDK that is newer than the tested
    window and still fits gives one :class:`UntestedSDKWarning`.

    Parameters:
        versions: what :func:`import_sdk` gave.
        table: which patch this is for.

    Raises:
        UnsupportedSDKError: a place is not what the patch expects. The message names packages, versions,
            place, what was expected and what was found.
    """
    owners: dict[Place, Owner] = {}
    drifts = []
    for place in _places(table, versions):
        found = _examine(place)
        if isinstance(found, str):
            drifts.append(f"{_label(place, table)}: expected {_expected(place)}; found {found}")
        else:
            owners[place] = found
    if drifts:
        raise UnsupportedSDKError("\n  ".join([f"cannot patch {_describe(versions)}; nothing was changed.", *drifts]))
    _warn_if_untested(versions)
    return [InstalledTarget(target, owners[target.place]) for target in table.targets if target.place in owners]


def _installed_version(window: Window) -> Version | None:
    try:
        spec = importlib.util.find_spec(window.package.replace("-", "_"))
    except ValueError:  # a bare module that a program has put into sys.modules in place of the package
        return None
    if spec is None or spec.origin is None:
        return None  # a folder of that name without a package in it is nothing either
    try:
        version = Version(installed_release(window.package))
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


def installed_release(package: str) -> str:
    """``importlib.metadata.version`` without parsing the whole description, which takes longer than all else here.

    Raises:
        PackageNotFoundError: the package has no metadata.
    """
    distribution = importlib.metadata.distribution(package)
    match = re.search(r"^Version: *(\S+)", distribution.read_text("METADATA") or "", re.MULTILINE)
    return match[1] if match else distribution.version


def _places(table: Table, versions: dict[str, Version]) -> list[Place]:
    return [place for place in table.places if _exists_in(place, versions.get(place.package))]


def _exists_in(place: Place, version: Version | None) -> bool:
    if version is None or version < Version(place.since):
        return False
    return place.until is None or version <= Version(place.until)


def _warn_if_untested(versions: dict[str, Version]) -> None:
    newer = [
        window for window in WINDOWS if window.package in versions and versions[window.package] > Version(window.newest)
    ]
    said = _describe(versions)
    if newer and said not in _already_said:
        notify(
            f"{said}: newer than what kruise-agents was tested with. All places to patch look as "
            f"expected, so they are patched; look for a newer kruise-agents",
            UntestedSDKWarning,
        )
        _already_said.add(said)


_already_said: set[str] = set()


def _describe(versions: dict[str, Version]) -> str:
    return ", ".join(
        f"{window.package} {versions[window.package]} (tested: {window})"
        for window in WINDOWS
        if window.package in versions
    )


def _label(place: Place, table: Table) -> str:
    return " ".join([*(target.seam for target in table.targets if target.place == place), str(place)])


def _expected(place: Place) -> str:
    article = "an" if place.kind is Kind.INSTANCE_ATTRIBUTE else "a"
    signature = ""
    if place.kind in (Kind.FUNCTION, Kind.CLASS_METHOD, Kind.METHOD_OF_BOTH):
        signature = f" {place.signature.shown(of_method=place.owner is not None)}"
    return f"{article} {place.kind}{signature}"


def _examine(place: Place) -> Owner | str:
    """What holds the place, or what was found instead of what is expected."""
    module = _module(place)
    if module is None:
        return f"no module {place.module}"
    if place.owner is None:
        return _misfit(module, place) or module
    owner = vars(module).get(place.owner)
    if not isinstance(owner, type):
        return f"no class {place.owner} in {place.module}"
    misfit = _misfit_of_instances if place.kind is Kind.INSTANCE_ATTRIBUTE else _misfit
    return misfit(owner, place) or owner


def _module(place: Place) -> types.ModuleType | None:
    try:
        # The modules of the SDK import each other in circles. Threads that enter the circle at different modules wait
        # for each other; all of them, ours and the program's, come in by the package.
        importlib.import_module(place.module.partition(".")[0])
        return importlib.import_module(place.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place.module}.".startswith(f"{error.name}."):
            raise  # something that the SDK itself needs is missing
        return None


def _misfit(owner: Owner, place: Place) -> str | None:
    if place.attribute not in vars(owner):
        return f"nothing of that name in the {'module' if place.owner is None else 'class'}"
    found = vars(owner)[place.attribute]
    function = _function_in(found, place.kind)
    if not isinstance(found, _TYPES[place.kind]) or function is None:
        return f"a {type(found).__name__}"
    if isinstance(function, types.FunctionType) and not _fits(function, place):
        return f"a {place.kind} {inspect.signature(function)}"
    return None


def _function_in(found: Any, kind: Kind) -> Any:
    """What is called when the place is; the thing itself where nothing is."""
    inner = {Kind.PROPERTY: "fget", Kind.CLASS_METHOD: "__func__", Kind.METHOD_OF_BOTH: "method"}.get(kind)
    return found if inner is None else getattr(found, inner, None)


def _misfit_of_instances(owner: type, place: Place) -> str | None:
    """Whether ``__init__`` sets the attribute, and instances have room for the mark.

    Read from the code: making an instance reads the environment and can fail for reasons of its own.
    """
    if "__slots__" in vars(owner):
        return "a class with __slots__"
    constructor = vars(owner).get("__init__")
    # Another patch of ours may stand there; what it wraps is the SDK's own.
    code = getattr(inspect.unwrap(constructor) if callable(constructor) else None, "__code__", None)
    return None if code is not None and place.attribute in code.co_names else "an __init__ without it"


def _fits(found: types.FunctionType, place: Place) -> bool:
    wanted = place.signature
    parameters = list(inspect.signature(found).parameters.values())[0 if place.owner is None else 1 :]
    names = tuple(_STARS.get(parameter.kind, "") + parameter.name for parameter in parameters)
    if not wanted.complete:
        return set(wanted.names) <= set(names)
    count = len(wanted.names)
    return names[:count] == wanted.names and names[count:] in ((), wanted.optional)
