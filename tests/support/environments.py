"""Environments of clients: SDKs, clients that others wrote, and kruise-agents as its users get it.

The environments are kept below ``.venvs/`` of the repository. The name of a folder has a digest of its ingredients, so
a change of the sources, of a lock file or of the Python makes a new environment, and all other environments are reused.
Several processes may make environments at once. Once all packages are downloaded, no network is needed.
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

from .releases import Pair

ROOT = Path(__file__).resolve().parents[2]
JAVASCRIPT = ROOT / "tests" / "clients" / "javascript"
_VENVS = ROOT / ".venvs"
_WHEEL_SOURCES = ("src", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")
_LOCKS = {"core-only": "sdk-newest", "local": "local"}
_UNUSED_SECONDS = 3600
_PYTHON = f"py{sys.version_info.major}{sys.version_info.minor}"


@functools.cache
def sdk_environment(pair: str) -> Path:
    """Return the Python of an environment with an SDK pair, pytest and the wheel of this tree.

    Args:
        pair: the part of a file's name between ``lock/sdk-`` and ``.txt``, such as ``newest`` or ``oldest``; or
            ``core-only``: the newest ``e2b`` without code interpreter and desktop; or ``local``: the packages that
            ``pip install 'kruise-agents[local]'`` installs.
    """
    return _environment(f"sdk-{pair}", _requirements(pair))


@functools.cache
def client_environment(name: str) -> Path:
    """Return the Python of an environment made from ``lock/client-<name>.txt``, with the wheel of this tree."""
    return _environment(f"client-{name}", (ROOT / "lock" / f"client-{name}.txt").read_text())


@functools.cache
def tool_environment(name: str) -> Path:
    """Return the ``bin`` folder of an environment made from ``lock/<name>.txt``, without this project."""
    requirements = (ROOT / "lock" / f"{name}.txt").read_text()
    environment = _VENVS / f"tool-{name}-{digest(requirements, sys.version)}"
    _make_once(environment, lambda folder: _install(folder, requirements))
    return environment / "bin"


@functools.cache
def javascript_packages() -> Path:
    """Return a ``node_modules`` folder with the packages of ``tests/clients/javascript/package-lock.json``."""
    files = [JAVASCRIPT / name for name in ("package.json", "package-lock.json")]
    folder = _VENVS / f"javascript-{digest(*(file.read_bytes() for file in files))}"

    def install(made: Path) -> None:
        for file in files:
            shutil.copy(file, made)
        options = ("--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund")
        run_tool("npm", "ci", "--prefix", str(made), *options)

    _make_once(folder, install)
    return folder / "node_modules"


def release_python(pair: Pair) -> Path:
    """Return the Python of an environment with the ``e2b`` of a pair and its dependencies, and nothing else.

    Code interpreter and desktop import nothing besides ``e2b`` and its dependencies. So a pair is an environment and
    two folders for ``PYTHONPATH``, and some 115 installs make every pair of the matrix.
    """
    folder = _VENVS / f"e2b-{pair.e2b}-{digest(sys.version)}"

    def install(made: Path) -> None:
        _make_venv(made)
        _install_offline_first("--python", str(made / "bin" / "python"), f"e2b=={pair.e2b}")

    _make_once(folder, install)
    return folder / "bin" / "python"


def release_path(pair: Pair) -> list[Path]:
    """Return the folders for ``PYTHONPATH`` of a pair: kruise-agents from the wheel, code interpreter and desktop."""
    wheel = _built_wheel()
    folders = {f"unpacked-{digest(wheel.parent.name)}": str(wheel)}
    for package, version in (("e2b-code-interpreter", pair.code_interpreter), ("e2b-desktop", pair.desktop)):
        if version:
            folders[f"{package}-{version}-{_PYTHON}"] = f"{package}=={version}"
    return [_unpacked(_VENVS / name, requirement) for name, requirement in folders.items()]


def digest(*parts: str | bytes) -> str:
    """Return twelve hex digits of a hash of the parts and of their lengths."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()[:12]


def _environment(family: str, requirements: str) -> Path:
    wheel = _built_wheel()
    environment = _VENVS / f"{family}-{digest(requirements, wheel.parent.name, sys.version)}"
    _make_once(environment, lambda folder: _install(folder, requirements, wheel))
    return environment / "bin" / "python"


def _requirements(pair: str) -> str:
    text = (ROOT / "lock" / f"{_LOCKS.get(pair, f'sdk-{pair}')}.txt").read_text()
    if pair != "core-only":
        return text
    without, removed = re.subn(r"^e2b-(code-interpreter|desktop)==.*(\n[ \t]+.*)*\n", "", text, flags=re.MULTILINE)
    assert removed == 2
    return without


@functools.cache
def _built_wheel() -> Path:
    folder = _VENVS / f"wheel-{digest(*_source_texts())}"
    command = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d")
    _make_once(folder, lambda made: run_tool(*command, str(made)))
    (wheel,) = folder.glob("*.whl")
    return wheel


def _source_texts() -> Iterator[bytes]:
    for name in _WHEEL_SOURCES:
        path = ROOT / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                yield str(file.relative_to(ROOT)).encode()
                yield file.read_bytes()


def _install(folder: Path, requirements: str, wheel: Path | None = None) -> None:
    _make_venv(folder)
    python = ("--python", str(folder / "bin" / "python"), "--no-deps")
    lock = folder / "requirements.txt"
    lock.write_text(requirements)
    _install_offline_first(*python, "--require-hashes", "-r", str(lock))
    if wheel is not None:
        # Without dependencies, because the pair decides on the SDK, and the wheel's ranges must not change the SDK.
        _install_offline_first(*python, str(wheel))


def _unpacked(folder: Path, requirement: str) -> Path:
    _make_once(folder, lambda made: _install_offline_first("--no-deps", "--target", str(made), requirement))
    return folder


def _make_venv(folder: Path) -> None:
    options = ("--quiet", "--relocatable", "--allow-existing")
    run_tool(find_uv_bin(), "venv", *options, "--python", sys.executable, str(folder))


def _install_offline_first(*arguments: str) -> None:
    command = (find_uv_bin(), "pip", "install", "--quiet", *arguments)
    try:
        run_tool(*command, "--offline")
    except RuntimeError:  # something is not in the cache yet
        run_tool(*command)


def _make_once(folder: Path, make: Callable[[Path], None]) -> None:
    _VENVS.mkdir(exist_ok=True)
    family = folder.name.rpartition("-")[0]
    with _locked(family):
        if not folder.exists():
            made = Path(tempfile.mkdtemp(prefix=".new-", dir=_VENVS))
            try:
                make(made)
                made.rename(folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        os.utime(folder)
        _remove_unused(family, folder)


def _remove_unused(family: str, current: Path) -> None:
    """Remove folders of earlier contents that no run of the last hour has used."""
    for folder in _VENVS.glob(f"{family}-*"):
        if folder != current and folder.stat().st_mtime < time.time() - _UNUSED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(name: str) -> Iterator[None]:
    with (_VENVS / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_tool(*command: str) -> None:
    """Run a program, or raise RuntimeError with its output."""
    # Settings of the person who runs the tests, such as another environment, must not redirect these programs.
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
