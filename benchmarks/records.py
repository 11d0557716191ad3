"""The figures of a benchmark as data, docs/benchmarks/<name>.json, from which all pages and pictures are written."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "benchmarks"

Record = dict[str, Any]

TARGETS: dict[str, float] = {
    "first result, warm": 0.05,
    "cycles a second": 16,
    "memory of an idle sandbox": 25,
    "run_code": 1.5,
    "commands.run": 3,
    "transfer": 0.5,
    "files": 1,
    "patch, ms": 5,
    "request through the patch": 1.02,
    "commands at once": 1,
    "beside E2B's servers": 1,
}
"""Targets of the project. A ratio is this package's figure divided by the figure of the comparison."""


def circumstances(command: str, load: float) -> Record:
    """Return the time, the machine and the versions of a benchmark's run. ``load`` is the machine's load average."""
    from importlib.metadata import version

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "command": command,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "cores": os.cpu_count(),
        "processor": next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown"),
        "load": round(load, 1),
        "python": sys.version.split()[0],
        "e2b": version("e2b"),
        "from_page": False,
    }


def read(name: str) -> Record:
    """Return the figures of a benchmark."""
    record: Record = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return record


def write(name: str, record: Record) -> None:
    """Write the figures of a benchmark, rounded to five significant digits."""
    text = json.dumps(_rounded(record), indent=2, ensure_ascii=False)
    (FOLDER / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value
