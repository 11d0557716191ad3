"""The SDK's JavaScript edition: its packages, kept below ``.venvs/`` like the environments of Python clients."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from .environments import ROOT, VENVS, digest, make_once, run_tool

PROGRAMS = ROOT / "tests" / "clients" / "javascript"
_OLDEST_NODE = (20, 18)  # what e2b 2.51.0 asks for


@functools.cache
def no_node_because() -> str | None:
    """Why JavaScript cannot be run here; None where it can."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not installed"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in version.removeprefix("v").split(".")[:2]) < _OLDEST_NODE:
        return f"node {version} is older than {'.'.join(map(str, _OLDEST_NODE))}"
    return None


@functools.cache
def javascript_packages() -> Path:
    """The ``node_modules`` of ``tests/clients/javascript/package-lock.json``."""
    files = [PROGRAMS / name for name in ("package.json", "package-lock.json")]
    folder = VENVS / f"javascript-{digest(*(file.read_bytes() for file in files))}"
    make_once(folder, lambda made: _install(made, files))
    return folder / "node_modules"


def _install(folder: Path, files: list[Path]) -> None:
    for file in files:
        shutil.copy(file, folder)
    run_tool("npm", "ci", "--prefix", str(folder), "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund")
