"""The check, made before a patch changes anything, that the installed SDK has every place in the patch's table."""

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
from .seams import CODE_INTERPRETER, DESKTOP, E2B, Kind, Place, Table, Target
from .warnings import UntestedSDKWarning, notify


@dataclass(frozen=True, slots=True)
class Window:
    """The oldest and the newest tested release of a package."""

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
    Kind.ADDED_METHOD: types.FunctionType,
}
_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


Owner = type | types.ModuleType
"""The class that a place belongs to, or the module for a global name."""


@dataclass(frozen=True, slots=True)
class InstalledTarget:
    """A :class:`Target` that the installed SDK has, with the class or module that it is in."""

    target: Target
    owner: Owner

    @property
    def attribute(self) -> str:
        return self.target.place.attribute


def import_sdk(table: Table) -> dict[str, Version]:
    """Import the modules of ``table``, and return the versions of the SDK's packages; may raise UnsupportedSDKError."""
    versions = {window.package: version for window in WINDOWS if (version := _installed_version(window)) is not None}
    if E2B not in versions:
        raise UnsupportedSDKError("the package e2b is not installed; pip install e2b")
    for place in _places(table, versions):
        _module(place)
    return versions


def installed_targets(versions: dict[str, Version], table: Table) -> list[InstalledTarget]:
    """Check the places of ``table`` that exist in these versions of the SDK, and return the targets among the places.

    A place that is not as expected raises UnsupportedSDKError. A package that is newer than the tested releases causes
    an :class:`UntestedSDKWarning`, once in a process for the same versions.
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
    except ValueError:  # a module without a spec stands in sys.modules for the package
        return None
    if spec is None or spec.origin is None:  # without an origin: a folder of that name that is no package
        return None
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
    """Return the version of a package, or raise ``PackageNotFoundError`` if the package has no metadata."""
    # importlib.metadata.version parses the whole description, which takes longer than the rest of the check.
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
    described = _describe(versions)
    if newer and described not in _warned_about:
        notify(
            f"{described}: newer than what kruise-agents was tested with. All places to patch look as "
            f"expected, so they are patched; look for a newer kruise-agents",
            UntestedSDKWarning,
        )
        _warned_about.add(described)


_warned_about: set[str] = set()


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
    """Return the owner of a place. If the place is not as expected, return the words for the error instead."""
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
        # The SDK's modules import each other in circles. Threads that enter a circle at different modules wait for
        # each other for ever. So every import begins with the package.
        importlib.import_module(place.module.partition(".")[0])
        return importlib.import_module(place.module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place.module}.".startswith(f"{error.name}."):
            raise  # the SDK itself needs something that is missing
        return None


def _misfit(owner: Owner, place: Place) -> str | None:
    if place.kind is Kind.ANYTHING:
        return None
    if place.kind is Kind.OWN_OR_INHERITED_METHOD:
        return None if callable(inspect.getattr_static(owner, place.attribute, None)) else "nothing of that name"
    if place.kind is Kind.ADDED_METHOD:
        found = inspect.getattr_static(owner, place.attribute, None)
        if found is None:
            return None
    elif place.attribute not in vars(owner):
        return f"nothing of that name in the {'module' if place.owner is None else 'class'}"
    else:
        found = vars(owner)[place.attribute]
    function = _function_in(found, place.kind)
    if not isinstance(found, _TYPES[place.kind]) or function is None:
        return f"a {type(found).__name__}"
    if isinstance(function, types.FunctionType) and not _fits(function, place):
        return f"a {place.kind} {inspect.signature(function)}"
    return None


def _function_in(found: Any, kind: Kind) -> Any:
    inner = {Kind.PROPERTY: "fget", Kind.CLASS_METHOD: "__func__", Kind.METHOD_OF_BOTH: "method"}.get(kind)
    return found if inner is None else getattr(found, inner, None)


def _misfit_of_instances(owner: type, place: Place) -> str | None:
    if "__slots__" in vars(owner):  # instances have no room for the patch's settings
        return "a class with __slots__"
    # The code of the constructor is examined, because making an instance reads the environment and can fail for other
    # reasons. It is unwrapped, because another patch of this package may have wrapped the SDK's constructor.
    constructor = vars(owner).get("__init__")
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
