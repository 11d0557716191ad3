"""The releases of the SDK and the pairs of them that work, as ``tests/compat/releases.toml`` lists them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

DATA = Path(__file__).resolve().parents[1] / "compat" / "releases.toml"


@dataclass(frozen=True, slots=True)
class Pair:
    """One e2b, alone or with one e2b-code-interpreter."""

    e2b: str
    code_interpreter: str | None = None

    def __str__(self) -> str:
        return f"{self.e2b} alone" if self.code_interpreter is None else f"{self.e2b} + {self.code_interpreter}"


@dataclass(frozen=True, slots=True)
class BrokenPair:
    """A pair that fails without any patch, and a part of what it says then."""

    pair: Pair
    says: str


@dataclass(frozen=True, slots=True)
class Releases:
    """What the data file says."""

    e2b: tuple[str, ...]
    code_interpreter: dict[str, list[list[str]]]
    broken: tuple[BrokenPair, ...]

    def working_code_interpreters(self, e2b: str) -> list[str]:
        """The releases of the code interpreter that work with one of e2b, oldest first."""
        return [version for version, ranges in self.code_interpreter.items() if any(_in(e2b, one) for one in ranges)]

    def pairs(self, e2b: str) -> list[Pair]:
        """What is run for one release: e2b alone, and with the oldest and the newest working code interpreter."""
        working = self.working_code_interpreters(e2b)
        return [Pair(e2b), *(Pair(e2b, version) for version in dict.fromkeys([*working[:1], *working[-1:]]))]


def read_releases() -> Releases:
    """Read the data file."""
    data = tomllib.loads(DATA.read_text())
    releases = tuple(data["e2b"])
    return Releases(
        releases,
        dict(sorted(data["code_interpreter"].items(), key=lambda item: Version(item[0]))),
        tuple(one for entry in data["broken"] for one in _broken(entry, releases)),
    )


def _broken(entry: dict[str, Any], releases: tuple[str, ...]) -> list[BrokenPair]:
    return [
        BrokenPair(Pair(e2b, entry["code_interpreter"]), entry["says"]) for e2b in releases if _in(e2b, entry["e2b"])
    ]


def _in(version: str, ends: list[str]) -> bool:
    return Version(ends[0]) <= Version(version) <= Version(ends[1])
