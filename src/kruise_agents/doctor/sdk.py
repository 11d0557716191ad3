"""Checks of the installed packages: versions, pairs that fail by themselves, places to patch, second copies."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from packaging.version import Version

from .. import __file__ as _own_file
from .. import __version__
from ..client.addresses.table import ADDRESSES
from ..client.installed_sdk import WINDOWS, Window, import_sdk, installed_release, installed_targets
from ..client.seams import CODE_INTERPRETER, E2B
from ..client.warnings import UntestedSDKWarning
from ..errors import UnsupportedSDKError
from .checks import Checks, Finding, Group, broken, fine, skipped, warning
from .world import World


class _Pair(NamedTuple):
    """Releases of e2b on which these releases of the code interpreter fail by themselves. Bounds are inclusive."""

    first: str
    last: str
    fails_from: str
    fails_to: str
    symptom: str
    fails_patched: bool = True


_NO_TRANSPORT = "'Sandbox' object has no attribute '_transport'"
_HTTP2 = "get_transport() got an unexpected keyword argument 'http2'"
_PAIRS = (
    # Found by running each pair on this list's releases; releases in between are taken to be like their neighbours.
    _Pair("2.4.1", "2.6.99", "2.28.1", "99", _NO_TRANSPORT),
    _Pair("2.7.0", "2.9.99", "2.38.0", "2.39.0", _HTTP2),
    _Pair("2.7.0", "2.10.0", "2.52.0", "99", _HTTP2),
    _Pair("2.10.4", "2.10.4", "2.55.0", "2.55.0", "get_sandbox_url() got an unexpected keyword argument 'port'", False),
)
_UPGRADE = "pip install --upgrade e2b e2b-code-interpreter"


def release(package: str) -> Version | None:
    """Return the installed version of a package, or None."""
    try:
        return Version(installed_release(package))
    except importlib.metadata.PackageNotFoundError:
        return None


CHECKS = Checks(Group.SDK)


@CHECKS.add(
    "sdk-version",
    "releases",
    """The patch was tried on a range of releases of each package. An older release is refused. A newer one is patched
    if every place to patch looks as expected, with a warning, since behaviour that was not tried may have changed.""",
)
def _sdk_version(world: World) -> Finding:
    found = {window: version for window in WINDOWS if (version := release(window.package)) is not None}
    if not any(window.package == E2B for window in found):
        return broken(
            "e2b is not installed", "The doctor runs in another environment, or the SDK is missing.", _UPGRADE
        )
    shown = ", ".join(f"{window.package} {version}" for window, version in found.items())
    for window, version in found.items():
        if version < Version(window.oldest):
            return broken(shown, f"{_tested(window)}; older releases are refused.", _UPGRADE)
    for window, version in found.items():
        if version > Version(window.newest):
            return warning(shown, f"{_tested(window)}.", f"pip install '{window.package}<={window.newest}'")
    return fine(shown)


def _tested(window: Window) -> str:
    return f"{window.package} was tested from {window.oldest} to {window.newest}"


@CHECKS.add(
    "sdk-pair",
    "e2b with e2b-code-interpreter",
    """Some pairs of `e2b` and `e2b-code-interpreter` fail by themselves, also without the patch, although their
    declared requirements permit them: `run_code` then ends in an `AttributeError` or a `TypeError`. With e2b 2.55.0 and
    e2b-code-interpreter 2.10.4 that is so without the patch only. Upgrade both together.""",
)
def _sdk_pair(world: World) -> Finding:
    base, interpreter = release(E2B), release(CODE_INTERPRETER)
    if base is None or interpreter is None:
        return skipped("e2b-code-interpreter is not installed" if base else "e2b is not installed")
    for pair in _PAIRS:
        concerned = Version(pair.first) <= interpreter <= Version(pair.last)
        if concerned and Version(pair.fails_from) <= base <= Version(pair.fails_to):
            shown = f"e2b {base} with e2b-code-interpreter {interpreter}"
            if pair.fails_patched:
                return broken(shown, f"run_code fails: {pair.symptom}.", _UPGRADE)
            return warning(shown, f"Without the patch run_code fails: {pair.symptom}.", _UPGRADE)
    return fine(f"{base} and {interpreter}")


@CHECKS.add(
    "sdk-places",
    "places to patch",
    """The patch replaces named functions of the SDK, and looks at each before it changes anything. This check makes the
    same comparison. If it fails, `patch_e2b()` raises `UnsupportedSDKError` with the same list and changes nothing:
    another library may have replaced functions of the SDK, or the release is too new for this version of
    `kruise-agents`.""",
)
def _sdk_places(world: World) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UntestedSDKWarning)
            targets = installed_targets(import_sdk(ADDRESSES), ADDRESSES)
    except UnsupportedSDKError as error:
        return broken("patch_e2b() would refuse this SDK", str(error), "pip install --upgrade kruise-agents e2b")
    except Exception as error:  # of any kind: the SDK itself cannot be imported
        return broken("the SDK cannot be imported", f"{type(error).__name__}: {error}", _UPGRADE)
    return fine(f"{len(targets)} places")


@CHECKS.add(
    "one-copy",
    "kruise-agents",
    """With two copies on Python's path, the first one is imported, and that may be an older one. OpenKruise's own
    client has been installed from its repository under the same import name, and as `agents_api`. Uninstall what you do
    not use, and take such folders out of `PYTHONPATH`.""",
)
def _one_copy(world: World) -> Finding:
    own = Path(_own_file).resolve().parent
    stated = _copies(filter(None, world.environment.get("PYTHONPATH", "").split(os.pathsep)))
    if stated and stated[0] != own:
        return broken(
            f"{__version__} in {own}; also {stated[0]}",
            "Programs of this shell import the second one: PYTHONPATH puts it first.",
            "unset PYTHONPATH   # or take that folder out of it",
        )
    others = [folder for folder in _copies(sys.path) if folder != own]
    named = [f"{name} ({version})" for name, version in _other_packages()]
    shown = f"{__version__} in {own}"
    if not others and not named:
        return fine(shown)
    return warning(
        f"{shown}; also {', '.join([*map(str, others), *named])}",
        "Another program may import the other copy.",
        "pip uninstall kruise-agents agents-api   # until nothing is left; then install one",
    )


def _copies(path: Iterable[str]) -> list[Path]:
    folders = [Path(entry or ".", "kruise_agents") for entry in path]
    return list(dict.fromkeys(folder.resolve() for folder in folders if (folder / "__init__.py").is_file()))


def _other_packages() -> Iterator[tuple[str, str]]:
    for distribution in importlib.metadata.distributions():
        name = distribution.name or ""
        files = distribution.files or () if name.lower().replace("_", "-") != "kruise-agents" else ()
        if any(os.fspath(file) == "kruise_agents/__init__.py" for file in files):
            yield name, distribution.version
    if importlib.util.find_spec("agents_api") is not None:
        yield "agents_api", "OpenKruise's own client"
