"""Environments of the SDK matrix: one for each e2b, and one folder for each code interpreter to put on its path.

Code interpreter and desktop import nothing that e2b does not bring, so a pair is an environment and two folders, and
some 115 installs make every pair. They are kept below ``.venvs/`` and hard-linked to the cache of uv; what is there is
never asked for again, so that a second run is offline.
"""

from __future__ import annotations

import sys
from pathlib import Path

from uv import find_uv_bin

from .environments import ROOT, built_wheel, digest, make_once, run_tool
from .releases import Pair

_PYTHON = f"py{sys.version_info.major}{sys.version_info.minor}"


def python_of(pair: Pair) -> Path:
    """The Python whose environment holds the pair's e2b and what that depends on, and nothing else."""
    folder = ROOT / ".venvs" / f"e2b-{pair.e2b}-{digest(sys.version)}"
    make_once(folder, lambda made: _make_environment(made, f"e2b=={pair.e2b}"))
    return folder / "bin" / "python"


def import_path_of(pair: Pair) -> list[Path]:
    """What ``PYTHONPATH`` needs for the pair: kruise-agents as the built wheel, code interpreter and desktop."""
    wheel = built_wheel()
    unpacked = ROOT / ".venvs" / f"unpacked-{digest(wheel.parent.name)}"
    make_once(unpacked, lambda made: _install_into(made, str(wheel)))
    others = {"e2b-code-interpreter": pair.code_interpreter, "e2b-desktop": pair.desktop}
    return [unpacked, *(_folder_of(package, version) for package, version in others.items() if version)]


def _folder_of(package: str, version: str) -> Path:
    folder = ROOT / ".venvs" / f"{package}-{version}-{_PYTHON}"
    make_once(folder, lambda made: _install_into(made, f"{package}=={version}"))
    return folder


def _make_environment(folder: Path, requirement: str) -> None:
    uv = find_uv_bin()
    run_tool(uv, "venv", "--quiet", "--relocatable", "--allow-existing", "--python", sys.executable, str(folder))
    _offline_first(uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), requirement)


def _install_into(folder: Path, requirement: str) -> None:
    uv = find_uv_bin()
    _offline_first(uv, "pip", "install", "--quiet", "--no-deps", "--target", str(folder), requirement)


def _offline_first(*command: str) -> None:
    try:
        run_tool(*command, "--offline")
    except RuntimeError:  # something is not in the cache yet
        run_tool(*command)
