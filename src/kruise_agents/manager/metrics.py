"""The counts of a manager, and ``GET /metrics``, which shows the counts in Prometheus' text format 0.0.4.

The page needs no API key. So no label has a value from a request, and no label names a sandbox.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from starlette.responses import Response

from .sandboxes.lifecycle import State
from .sandboxes.pool import Pool

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "kruise_agents_"
_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SHOWN_STATES = [state for state in State if state is not State.GONE]

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]


@dataclass(slots=True)
class Histogram:
    """A histogram of durations in seconds. ``buckets`` counts, for each upper bound, the durations up to the bound."""

    buckets: list[int] = field(default_factory=lambda: [0] * len(_BOUNDS))
    count: int = 0
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        for index, bound in enumerate(_BOUNDS):
            self.buckets[index] += seconds <= bound

    def samples(self, labels: Labels) -> Iterator[Sample]:
        for bound, count in zip(_BOUNDS, self.buckets, strict=True):
            yield "_bucket", {**labels, "le": f"{bound:g}"}, count
        yield "_bucket", {**labels, "le": "+Inf"}, self.count
        yield "_sum", labels, self.total
        yield "_count", labels, self.count


@dataclass(slots=True)
class Metrics:
    """The counts of one manager since its start."""

    create_seconds: dict[str, Histogram] = field(default_factory=lambda: {"warm": Histogram(), "cold": Histogram()})
    """Durations of successful creates: ``warm`` if the sandbox came from a pool, else ``cold``."""
    failed_creates: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    """Sandboxes that ended before their manager did, by reason: ``kill``, ``end time`` or ``by itself``."""
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Answered requests, by the part that answered (``api``, ``gateway`` or ``manager``) and the status.

    Requests that the HTTP server refuses as malformed, and accepted WebSockets, are not counted.
    """

    def families(self) -> Iterator[str]:
        failed: list[Sample] = [("", {}, self.failed_creates)]
        yield _family("sandbox_create_failures_total", "counter", "Sandboxes that did not start.", failed)
        times = [
            sample for start, histogram in self.create_seconds.items() for sample in histogram.samples({"start": start})
        ]
        yield _family("sandbox_create_seconds", "histogram", "Successful creates; warm: from a pool.", times)
        ended = [("", {"reason": reason}, count) for reason, count in sorted(self.ended.items())]
        yield _family("sandboxes_ended_total", "counter", "Sandboxes that are gone.", ended)
        counts = sorted(self.requests.items())
        requests = [("", {"door": door, "status": str(status)}, count) for (door, status), count in counts]
        yield _family("http_requests_total", "counter", "Requests, by the status of the answer.", requests)


class MetricsPage:
    """The answer to ``GET /metrics``, from the counts, the state of each sandbox and the pools of warm sandboxes."""

    def __init__(
        self, metrics: Metrics, states: Callable[[], Iterable[State]], pools: Callable[[], Iterable[Pool]]
    ) -> None:
        self.metrics = metrics
        self._states = states
        self._pools = pools

    def response(self) -> Response:
        states = Counter(self._states())
        samples = [("", {"state": str(state)}, states[state]) for state in _SHOWN_STATES]
        sandboxes = _family("sandboxes", "gauge", "Sandboxes, by state.", samples)
        families = [sandboxes, *_pool_families(list(self._pools())), *self.metrics.families()]
        return Response("".join(families), media_type=_CONTENT_TYPE)


def _pool_families(pools: list[Pool]) -> Iterator[str]:
    ready = [_sample(pool, len(pool.ready)) for pool in pools]
    yield _family("pool_size", "gauge", "Warm sandboxes that are ready.", ready)
    wanted = [_sample(pool, pool.prepared.pool) for pool in pools]
    yield _family("pool_target", "gauge", "Warm sandboxes that should be ready.", wanted)
    claims = [_sample(pool, pool.warm_claims, start="warm") for pool in pools]
    claims += [_sample(pool, pool.cold_creates, start="cold") for pool in pools]
    yield _family("pool_claims_total", "counter", "Creates where there is a pool; cold: it was empty.", claims)
    failures = [_sample(pool, pool.failures) for pool in pools]
    text = "Warm sandboxes that did not start, ended in the pool or did not answer."
    yield _family("pool_failures_total", "counter", text, failures)


def _sample(pool: Pool, value: int, **labels: str) -> Sample:
    return "", {"template": pool.prepared.template.name, **labels}, value


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {_PREFIX}{name} {text}", f"# TYPE {_PREFIX}{name} {kind}"]
    lines += [f"{_PREFIX}{name}{suffix}{_label_text(labels)} {value:.15g}" for suffix, labels, value in samples]
    return "\n".join(lines) + "\n"


def _label_text(labels: Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
