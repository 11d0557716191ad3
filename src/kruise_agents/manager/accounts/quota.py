"""The quota of an API key: limits for all its sandboxes together. Dimensions and scopes have OpenKruise's names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

from ...errors import KruiseAgentsError

DIMENSIONS = ("sandbox.count", "limits.cpu", "limits.memory")
SCOPES = ("all", "running")


class QuotaExceededError(KruiseAgentsError):
    """Another sandbox would exceed the quota of its API key."""


@dataclass(frozen=True, slots=True)
class Use:
    """The part of a quota that one sandbox uses. ``cpu`` is in thousandths of a processor, ``memory`` in MiB."""

    cpu: int
    memory: int
    running: bool = True  # or about to run; a paused sandbox counts in the scope "all" only

    def of(self, dimension: str) -> int:
        return {"sandbox.count": 1, "limits.cpu": self.cpu, "limits.memory": self.memory}[dimension]


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of a quota, as the API writes it."""

    dimension: str
    scope: str
    limit: int


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of an API key. Without limits everything is allowed."""

    limits: tuple[Limit, ...] = ()

    @classmethod
    def read(cls, entries: Iterable[Limit]) -> Self:
        limits = tuple(entries)
        seen = set()
        for limit in limits:
            dimension, scope = limit.dimension, limit.scope
            if dimension not in DIMENSIONS:
                raise ValueError(f'unsupported quota dimension "{dimension}"; it is one of {", ".join(DIMENSIONS)}')
            if scope not in SCOPES:
                raise ValueError(f'unsupported quota scope "{scope}"; it is one of {", ".join(SCOPES)}')
            if limit.limit < 0:
                raise ValueError(f"quota limit must be non-negative, got {limit.limit}")
            if (dimension, scope) in seen:
                raise ValueError(f'duplicate quota limit for dimension "{dimension}" and scope "{scope}"')
            seen.add((dimension, scope))
        return cls(limits)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(tuple(Limit(**limit) for limit in json.loads(text)["limits"]))

    def to_json(self) -> str:
        return json.dumps(self.shown())

    def shown(self) -> dict[str, Any]:
        return {"limits": [asdict(limit) for limit in self.limits]}

    def require(self, new: Use, present: Iterable[Use]) -> None:
        """Raise :class:`QuotaExceededError` if the sum of ``new`` and all of ``present`` would exceed a limit."""
        present = list(present)
        for limit in self.limits:
            counted = [use for use in (new, *present) if limit.scope == "all" or use.running]
            if sum(use.of(limit.dimension) for use in counted) > limit.limit:
                name = f"{limit.dimension} ({limit.scope})"
                raise QuotaExceededError(f"QuotaExceeded: api-key quota exceeded: {name} is limited to {limit.limit}")


UNLIMITED = Quota()
