"""How much the sandboxes of one API key may take together. Pure; the names are those of OpenKruise's manager."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from ...errors import KruiseAgentsError

DIMENSIONS = ("sandbox.count", "limits.cpu", "limits.memory")
SCOPES = ("all", "running")


class QuotaExceededError(KruiseAgentsError):
    """One more sandbox would be more than its API key may have."""


@dataclass(frozen=True, slots=True)
class Use:
    """What one sandbox counts for. ``cpu`` is in thousandths of a processor, ``memory`` in MiB."""

    cpu: int
    memory: int
    running: bool = True
    """Whether it runs or is about to; a paused one counts in the scope ``all`` only."""

    def of(self, dimension: str) -> int:
        """How much of one dimension it is."""
        return {"sandbox.count": 1, "limits.cpu": self.cpu, "limits.memory": self.memory}[dimension]


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit, as the API writes it."""

    dimension: str
    scope: str
    limit: int


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of one API key; without any, everything is allowed."""

    limits: tuple[Limit, ...] = ()

    @classmethod
    def read(cls, entries: Iterable[Limit]) -> Self:
        """A quota of limits that somebody wrote.

        Raises:
            ValueError: one of them cannot be.
        """
        limits = tuple(entries)
        seen = set()
        for one in limits:
            if one.dimension not in DIMENSIONS:
                raise ValueError(f'unsupported quota dimension "{one.dimension}"; it is one of {", ".join(DIMENSIONS)}')
            if one.scope not in SCOPES:
                raise ValueError(f'unsupported quota scope "{one.scope}"; it is one of {", ".join(SCOPES)}')
            if one.limit < 0:
                raise ValueError(f"quota limit must be non-negative, got {one.limit}")
            if (one.dimension, one.scope) in seen:
                raise ValueError(f'duplicate quota limit for dimension "{one.dimension}" and scope "{one.scope}"')
            seen.add((one.dimension, one.scope))
        return cls(limits)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """A quota as :meth:`to_json` wrote it."""
        return cls(tuple(Limit(**one) for one in json.loads(text)["limits"]))

    def to_json(self) -> str:
        """The quota as text, for the store."""
        return json.dumps(self.shown())

    def shown(self) -> dict[str, Any]:
        """The quota as the API shows it."""
        return {"limits": [{"dimension": one.dimension, "scope": one.scope, "limit": one.limit} for one in self.limits]}

    def require(self, new: Use, present: Iterable[Use]) -> None:
        """Return when ``new`` may come to those that are present.

        Raises:
            QuotaExceededError: it may not; names the limit.
        """
        present = list(present)
        for one in self.limits:
            counted = [use for use in (new, *present) if one.scope == "all" or use.running]
            if sum(use.of(one.dimension) for use in counted) > one.limit:
                raise QuotaExceededError(
                    f"QuotaExceeded: api-key quota exceeded: {one.dimension} ({one.scope}) is limited to {one.limit}"
                )


UNLIMITED = Quota()
