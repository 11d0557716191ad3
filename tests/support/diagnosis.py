"""Running the doctor's checks inside of a test."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kruise_agents.doctor.checks import Finding, Result
from kruise_agents.doctor.command import CHECKS, examine
from kruise_agents.doctor.world import Options, World

NOTHING_SET = {"PATH": os.environ["PATH"]}


def finding(id: str, variables: Mapping[str, str] | None = None, **options: Any) -> Finding:
    """Make one check, with these variables and no others."""
    return CHECKS[id].run(World(Options(**options), {**NOTHING_SET, **(variables or {})}))


def report(variables: Mapping[str, str], **options: Any) -> dict[str, Result]:
    """Make all checks that the options ask for."""
    _, results = examine(Options(**options), {**NOTHING_SET, **variables})
    return {result.check.id: result for result in results}


def ids_with(verdict: str, results: Mapping[str, Result]) -> list[str]:
    return [id for id, result in results.items() if result.finding.verdict == verdict]


def pretend(package: str, version: str, folder: Path, *lines: str) -> None:
    """Write the metadata of another release, to be found before the real one."""
    metadata = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    fields = ["Metadata-Version: 2.1", f"Name: {package}", f"Version: {version}", *lines]
    (metadata / "METADATA").write_text("\n".join(fields))
