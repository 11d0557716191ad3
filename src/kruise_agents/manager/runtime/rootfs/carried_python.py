"""The manager's Python for sandboxes with a root file system of their own.

A root file system may have another C library than the machine, or lack libraries that Python needs. So Python lies in a
read-only folder together with the machine's loader and libraries. Only the command line of the interpreter names these
libraries, so other programs of the sandbox do not use them.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import kruise_agents

from .... import __version__
from .python import PythonPlaces, base_executable, make_environment

FOLDER = PurePosixPath("/.kruise-agents")  # in a sandbox
_LIBRARY = re.compile(r"^\t(\S+) => (/.+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_LOADER = re.compile(r"^\t(/.+) \(0x[0-9a-f]+\)$", re.MULTILINE)
# A script passes on the name with which it was called. By that name Python finds its virtual environment.
_INTERPRETER = """\
#!/bin/sh
exec {folder}/libraries/{loader} --library-path {folder}/libraries --argv0 "$0" {folder}/interpreter "$@"
"""


class CarriedPython:
    """The folder with the manager's Python, made below ``folder`` and kept, because sandboxes outlive the manager."""

    def __init__(self, folder: Path) -> None:
        self._mounts = dict(_mounts())
        described = repr((sorted(self._mounts.items()), _INTERPRETER, sys.version, __version__))
        self._folder = folder / hashlib.sha256(described.encode()).hexdigest()[:16]
        if not self._folder.is_dir():
            draft = self._folder.with_suffix(".new")
            shutil.rmtree(draft, ignore_errors=True)
            self._make(draft)
            for path in (draft, *draft.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755)  # whatever the umask, every user of a sandbox must get in
            draft.rename(self._folder)

    def options(self) -> Iterator[str]:
        """Yield the options of ``bwrap`` that mount the folder, with the machine's Python and libraries inside."""
        yield from ("--ro-bind", str(self._folder), str(FOLDER))
        for inside, source in self._mounts.items():
            yield from ("--ro-bind", str(source), str(FOLDER / inside))

    def _make(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        for inside, source in self._mounts.items():
            place = folder / inside
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                place.mkdir()
            else:
                place.touch()
        base = folder / PurePosixPath(places().base).relative_to(FOLDER)
        base.parent.mkdir(exist_ok=True)
        loader = next(name for name in self._mounts if name.startswith("libraries/")).partition("/")[2]
        base.write_text(_INTERPRETER.format(folder=FOLDER, loader=loader), encoding="utf-8")
        make_environment(folder / "environment", places())


@functools.cache
def places() -> PythonPlaces:
    """Return the paths of the manager's Python in a sandbox with a root file system of its own."""
    packages = [str(FOLDER / name) for name, _ in _packages()]
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return PythonPlaces(
        Path(FOLDER / "bin" / version), tuple(packages), Path(FOLDER / "own" / "kruise_agents"), FOLDER / "environment"
    )


def _mounts() -> Iterator[tuple[str, Path]]:
    # Yield paths in the folder, each with its source on the machine. The loader is the first of the libraries.
    base = base_executable()
    yield "interpreter", base
    for folder in _standard_library():
        yield str(folder.relative_to(sys.base_prefix)), folder
    yield from _packages()
    yield "own/kruise_agents", Path(kruise_agents.__file__).parent
    yield from ((f"libraries/{name}", path) for name, path in _libraries(base))


def _standard_library() -> list[Path]:
    # Some systems have a second folder (lib64) for compiled modules.
    bases = {"platbase": sys.base_exec_prefix, "installed_platbase": sys.base_exec_prefix}
    return sorted({Path(sysconfig.get_path(name, vars=bases)) for name in ("stdlib", "platstdlib")})


def _packages() -> list[tuple[str, Path]]:
    folders = [Path(folder) for folder in site.getsitepackages() if Path(folder).is_dir()]
    return [(f"packages/{number}", folder) for number, folder in enumerate(folders)]


def _libraries(base: Path) -> Iterator[tuple[str, Path]]:
    # Yield the loader, then the shared libraries that the interpreter and its extension modules are linked to.
    packages = [folder for _, folder in _packages()]
    compiled = [*(folder / "lib-dynload" for folder in _standard_library()), *packages]
    modules = [module for folder in compiled for module in sorted(folder.rglob("*.so"))]
    try:
        output = _ldd(base)
        loader = _LOADER.search(output)
        if loader is None:
            raise OSError(f"ldd names no loader of {base}")
        output += _ldd(*modules)
    except FileNotFoundError:
        raise OSError("the program ldd is not installed, which names the libraries of the manager's Python") from None
    yield Path(loader[1]).name, Path(loader[1]).resolve()
    for name, path in dict(reversed(_LIBRARY.findall(output))).items():
        # A package finds the libraries that it contains.
        if not any(Path(path).resolve().is_relative_to(folder) for folder in packages):
            yield name, Path(path).resolve()


def _ldd(*files: Path) -> str:
    # Without check, because ldd fails if one of the files is not for this machine.
    command = ["ldd", *map(str, files)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout
