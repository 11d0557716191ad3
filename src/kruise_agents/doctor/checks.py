"""The parts of a check: its table entry, its finding, and the list of the checks of a group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .world import World

_PAGE = "https://github.com/openkruise/kruise-agents/blob/main/docs/guides/troubleshooting.md"


class Group(StrEnum):
    """The parts of the report, in its order."""

    MACHINE = "this machine"
    SDK = "the installed SDK"
    WAY = "the way to the manager"
    MANAGER = "the manager"
    SANDBOX = "a sandbox"
    CLUSTER = "the cluster"


class Verdict(StrEnum):
    """The outcome of a check."""

    FINE = "fine"
    WARNING = "warning"
    BROKEN = "broken"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of a check, in words.

    Attributes:
        value: the value that was seen.
        reason: why the value is wrong, or why the check was not made.
        command: a command or a line of a program that mends the trouble.
    """

    verdict: Verdict
    value: str = ""
    reason: str = ""
    command: str = ""


CheckFunction: TypeAlias = "Callable[[World], Finding]"


def fine(value: str = "", reason: str = "") -> Finding:
    """Return the finding that all is well."""
    return Finding(Verdict.FINE, value, reason)


def warning(value: str, reason: str, command: str = "") -> Finding:
    """Return the finding of a trouble that lets some programs work."""
    return Finding(Verdict.WARNING, value, reason, command)


def broken(value: str, reason: str, command: str = "") -> Finding:
    """Return the finding of a trouble that lets no program work."""
    return Finding(Verdict.BROKEN, value, reason, command)


def skipped(reason: str) -> Finding:
    """Return the finding of a check that could not be made, or had nothing to look at."""
    return Finding(Verdict.SKIPPED, reason=reason)


@dataclass(frozen=True, slots=True)
class Check:
    """A check. ``explanation`` is its paragraph in the troubleshooting page, in Markdown."""

    id: str
    group: Group
    title: str
    explanation: str
    run: CheckFunction

    @property
    def link(self) -> str:
        return f"{_PAGE}#{self.id}"


@dataclass(frozen=True, slots=True)
class Result:
    """The finding of a check, and the time that it took. ``seconds`` is None for a check that was not made."""

    check: Check
    finding: Finding
    seconds: float | None = None


class Checks(list[Check]):
    """The checks of one group, in the order in which their functions are declared."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    def add(self, id: str, title: str, explanation: str) -> Callable[[CheckFunction], CheckFunction]:
        """Return a decorator that makes a check of a function."""

        def decorate(function: CheckFunction) -> CheckFunction:
            self.append(Check(id, self._group, title, " ".join(explanation.split()), function))
            return function

        return decorate
