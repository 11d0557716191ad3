"""What a manager counts, and how ``GET /metrics`` says it: Prometheus' text format, version 0.0.4.

No label has a value that a client chooses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "kruise_agents_"
_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]
"""What is added to the family's name, labels, value."""


@dataclass(slots=True)
class Histogram:
    """How often something took how many seconds."""

    buckets: list[int] = field(default_factory=lambda: [0] * len(_BOUNDS))
    count: int = 0
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.count += 1
        self.total += seconds
        for index, bound in enumerate(_BOUNDS):
            self.buckets[index] += seconds <= bound

    def samples(self, labels: Labels) -> Iterator[Sample]:
        """Its lines."""
        for bound, count in zip(_BOUNDS, self.buckets, strict=True):
            yield "_bucket", {**labels, "le": f"{bound:g}"}, count
        yield "_bucket", {**labels, "le": "+Inf"}, self.count
        yield "_sum", labels, self.total
        yield "_count", labels, self.count


@dataclass(slots=True)
class Metrics:
    """The counts of one manager since its start."""

    create_seconds: dict[str, Histogram] = field(default_factory=lambda: {"warm": Histogram(), "cold": Histogram()})
    """By whether the sandbox came from a pool."""
    failed_creates: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    """By why: ``kill``, ``end time``, ``by itself``."""
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By who answered, ``api``, ``gateway`` or ``manager``, and status."""

    def families(self) -> Iterator[str]:
        """The text of all of them."""
        failed: list[Sample] = [("", {}, self.failed_creates)]
        yield family("sandbox_create_failures_total", "counter", "Sandboxes that did not start.", failed)
        times = [
            sample for start, histogram in self.create_seconds.items() for sample in histogram.samples({"start": start})
        ]
        yield family("sandbox_create_seconds", "histogram", "Creates, by whether a pool had one ready.", times)
        ended = [("", {"reason": reason}, count) for reason, count in sorted(self.ended.items())]
        yield family("sandboxes_ended_total", "counter", "Sandboxes that are gone.", ended)
        counts = sorted(self.requests.items())
        requests = [("", {"door": door, "status": str(status)}, count) for (door, status), count in counts]
        yield family("http_requests_total", "counter", "Requests, by the status of the answer.", requests)


def family(name: str, kind: str, what: str, samples: Iterable[Sample]) -> str:
    """The lines of one metric.

    Parameters:
        kind: ``counter``, ``gauge`` or ``histogram``.
    """
    lines = [f"# HELP {_PREFIX}{name} {what}", f"# TYPE {_PREFIX}{name} {kind}"]
    lines += [f"{_PREFIX}{name}{suffix}{_shown(labels)} {value:.15g}" for suffix, labels, value in samples]
    return "\n".join(lines) + "\n"


def _shown(labels: Labels) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
