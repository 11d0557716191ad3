"""``GET /metrics`` on the manager's own port, without a key: counts, and nothing of any single sandbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from starlette.responses import Response

from .metrics import CONTENT_TYPE, Metrics, Sample, family
from .sandboxes.lifecycle import State
from .sandboxes.pool import Pool
from .sandboxes.service import SandboxService

_SHOWN = [state for state in State if state is not State.GONE]


class MetricsPage:
    """What a scraper is answered.

    Parameters:
        metrics: the counts.
        sandboxes: what is there at the moment.
    """

    def __init__(self, metrics: Metrics, sandboxes: SandboxService) -> None:
        self.metrics = metrics
        self._sandboxes = sandboxes

    def response(self) -> Response:
        """The page of this moment."""
        families = [self._states(), *_pool_families(self._sandboxes.pools.all()), *self.metrics.families()]
        return Response("".join(families), media_type=CONTENT_TYPE)

    def _states(self) -> str:
        states: Counter[State] = Counter(self._sandboxes.states())
        samples = [("", {"state": str(state)}, states[state]) for state in _SHOWN]
        return family("sandboxes", "gauge", "Sandboxes, by state.", samples)


def _pool_families(pools: list[Pool]) -> Iterator[str]:
    yield family("pool_size", "gauge", "Warm sandboxes that wait.", [_sample(pool, len(pool.ready)) for pool in pools])
    yield family("pool_target", "gauge", "How many should.", [_sample(pool, pool.prepared.pool) for pool in pools])
    claims = [_sample(pool, pool.warm_claims, start="warm") for pool in pools]
    claims += [_sample(pool, pool.cold_creates, start="cold") for pool in pools]
    yield family("pool_claims_total", "counter", "Creates where there is a pool; cold: it was empty.", claims)
    failures = [_sample(pool, pool.failures) for pool in pools]
    yield family(
        "pool_failures_total",
        "counter",
        "Warm sandboxes that did not start, ended in the pool or did not answer.",
        failures,
    )


def _sample(pool: Pool, value: int, **labels: str) -> Sample:
    return "", {"template": pool.prepared.template.name, **labels}, value
