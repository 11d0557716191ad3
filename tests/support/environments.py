"""Client environments: an SDK pair or somebody else's client from a lock file, and kruise-agents as users get it.

They are kept below ``.venvs/`` of the repository, named by what they are made of, so that a change of the sources,
of a lock file or of the Python makes a new one and everything else is reused. Safe under pytest-xdist, and offline
once everything has been downloaded.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).resolve().parents[2]
VENVS = ROOT / ".venvs"
_WHEEL_SOURCES = ("src", "pyproject.toml", "README.md", "LICENSE")
_LOCKS = {"core-only": "sdk-newest", "local": "local"}
_UNUSED_SECONDS = 3600


@functools.cache
def sdk_environment(pair: str) -> Path:
    """The Python of an environment with an SDK pair and the wheel of this tree.

    Parameters:
        pair: what stands between ``lock/sdk-`` and ``.txt``, such as ``newest`` or ``oldest``; or ``core-only``:
            the newest ``e2b`` without the code interpreter, each with pytest; or ``local``: what
            ``pip install 'kruise-agents[local]'`` gives.
    """
    return _environment(f"sdk-{pair}", _requirements(pair))


@functools.cache
def client_environment(name: str) -> Path:
    """The Python of an environment with a client that others wrote, pytest and the wheel of this tree.

    Parameters:
        name: what stands between ``lock/client-`` and ``.txt``.
    """
    return _environment(f"client-{name}", (ROOT / "lock" / f"client-{name}.txt").read_text())


@functools.cache
def built_wheel() -> Path:
    """The wheel of this tree, built again when its sources have changed."""
    folder = VENVS / f"wheel-{digest(*_source_texts())}"
    make_once(folder, _build_wheel)
    (wheel,) = folder.glob("*.whl")
    return wheel


@functools.cache
def tool_environment(name: str) -> Path:
    """The folder of programs of an environment made from ``lock/<name>.txt``, with nothing of this project in it."""
    requirements = (ROOT / "lock" / f"{name}.txt").read_text()
    environment = VENVS / f"tool-{name}-{digest(requirements, sys.version)}"
    make_once(environment, lambda folder: _install(folder, requirements, None))
    return environment / "bin"


def _environment(family: str, requirements: str) -> Path:
    wheel = built_wheel()
    environment = VENVS / f"{family}-{digest(requirements, wheel.parent.name, sys.version)}"
    make_once(environment, lambda folder: _install(folder, requirements, wheel))
    return environment / "bin" / "python"


def _requirements(pair: str) -> str:
    text = (ROOT / "lock" / f"{_LOCKS.get(pair, f'sdk-{pair}')}.txt").read_text()
    if pair != "core-only":
        return text
    without, removed = re.subn(r"^e2b-(code-interpreter|desktop)==.*(\n[ \t]+.*)*\n", "", text, flags=re.MULTILINE)
    assert removed == 2
    return without


def _source_texts() -> Iterator[bytes]:
    for name in _WHEEL_SOURCES:
        path = ROOT / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                yield str(file.relative_to(ROOT)).encode()
                yield file.read_bytes()


def _build_wheel(folder: Path) -> None:
    run_tool(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder))


def _install(folder: Path, requirements: str, wheel: Path | None) -> None:
    uv = find_uv_bin()
    run_tool(uv, "venv", "--quiet", "--relocatable", "--allow-existing", "--python", sys.executable, str(folder))
    lock = folder / "requirements.txt"
    lock.write_text(requirements)
    install = (uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"))
    locked = (*install, "--require-hashes", "--no-deps", "-r", str(lock))
    try:
        run_tool(*locked, "--offline")
    except RuntimeError:  # something is not in the cache yet
        run_tool(*locked)
    if wheel is not None:
        # The pairs decide what the SDK is; the wheel's own ranges must not change it.
        run_tool(*install, "--offline", "--no-deps", str(wheel))


def make_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Let ``make`` fill a folder below ``.venvs/`` unless it is there; its name is what it is made of."""
    VENVS.mkdir(exist_ok=True)
    family = folder.name.rpartition("-")[0]
    with _locked(family):
        if not folder.exists():
            made = Path(tempfile.mkdtemp(prefix=".new-", dir=VENVS))
            try:
                make(made)
                made.rename(folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        os.utime(folder)
        _remove_unused(family, folder)


def _remove_unused(family: str, current: Path) -> None:
    """Remove earlier makes of the same thing that no run of the last hour has used."""
    for folder in VENVS.glob(f"{family}-*"):
        if folder != current and folder.stat().st_mtime < time.time() - _UNUSED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(name: str) -> Iterator[None]:
    with (VENVS / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_tool(*command: str) -> None:
    """Run a program; what it printed is in the error when it fails."""
    # Settings of whoever runs the tests, such as another environment, must not redirect these.
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")


def digest(*parts: str | bytes) -> str:
    """Twelve digits that stand for the parts and their borders."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()[:12]
