"""The releases of the SDK and their working pairs, as ``tests/compat/releases.toml`` lists them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

DATA = Path(__file__).resolve().parents[1] / "compat" / "releases.toml"


@dataclass(frozen=True, slots=True)
class Pair:
    """A release of e2b, alone or with a release of e2b-code-interpreter, of e2b-desktop, or of both."""

    e2b: str
    code_interpreter: str | None = None
    desktop: str | None = None

    def __str__(self) -> str:
        others = [self.code_interpreter, self.desktop and f"desktop {self.desktop}"]
        return " + ".join([self.e2b, *filter(None, others)]) if any(others) else f"{self.e2b} alone"


@dataclass(frozen=True, slots=True)
class BrokenPair:
    """A pair that fails without any patch, and a part of its error message."""

    pair: Pair
    says: str


@dataclass(frozen=True, slots=True)
class Releases:
    """The contents of the data file."""

    e2b: tuple[str, ...]
    code_interpreter: dict[str, list[list[str]]]
    desktop: dict[str, list[list[str]]]
    broken: tuple[BrokenPair, ...]

    def working_code_interpreters(self, e2b: str) -> list[str]:
        """Return the releases of the code interpreter that work with a release of e2b, oldest first."""
        return _working(self.code_interpreter, e2b)

    def pairs(self, e2b: str) -> list[Pair]:
        """Return the pairs to run for a release: alone, and with the oldest and the newest working other packages."""
        working = (_working(self.code_interpreter, e2b), _working(self.desktop, e2b))
        oldest, newest = (Pair(e2b, *(versions[end] if versions else None for versions in working)) for end in (0, -1))
        return list(dict.fromkeys([Pair(e2b), oldest, newest]))


def read_releases() -> Releases:
    """Read the data file."""
    data = tomllib.loads(DATA.read_text())
    releases = tuple(data["e2b"])
    return Releases(
        releases,
        _sorted(data["code_interpreter"]),
        _sorted(data["desktop"]),
        tuple(pair for entry in data["broken"] for pair in _broken(entry, releases)),
    )


def _broken(entry: dict[str, Any], releases: tuple[str, ...]) -> list[BrokenPair]:
    return [
        BrokenPair(Pair(e2b, entry["code_interpreter"]), entry["says"]) for e2b in releases if _in(e2b, entry["e2b"])
    ]


def _sorted(package: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    return dict(sorted(package.items(), key=lambda item: Version(item[0])))


def _working(package: dict[str, list[list[str]]], e2b: str) -> list[str]:
    return [version for version, ranges in package.items() if any(_in(e2b, ends) for ends in ranges)]


def _in(version: str, ends: list[str]) -> bool:
    return Version(ends[0]) <= Version(version) <= Version(ends[1])
