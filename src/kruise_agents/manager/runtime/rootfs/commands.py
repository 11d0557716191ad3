"""Commands of the manager's packages, such as ``ipython``, as scripts for the Python of a sandbox.

The scripts that pip has written for the manager name the manager's interpreter, which does not find packages that a
sandbox has installed. So a sandbox gets scripts that name its own interpreter.
"""

from __future__ import annotations

import functools
import os
import site
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, distributions
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from ..files.layout import SYSTEM_PATH
from ..files.trees import make_folder, write_file

COMMANDS = PurePosixPath("/run/kruise-agents/bin")
"""The folder of the commands in a sandbox that has a file tree of its own."""
_GROUPS = ("console_scripts", "gui_scripts")
_ENTRY = """\
import sys

from {module} import {name}

if __name__ == "__main__":
    sys.exit({attribute}())
"""
BESIDE = """\
#!/bin/sh
'''exec' "$(dirname "$(readlink -f "$0")")/python" "$0" "$@"
' '''
"""
"""The first lines of a script for ``python`` in the same folder. The shell reads the script, then Python."""
_Contents: TypeAlias = Mapping[str, str | Path]  # by name: the text of a script, or the program that a link leads to


class Commands:
    """The commands, made anew when a package was installed or removed since they were last asked for.

    Args:
        python: The interpreter that runs the commands; None: ``python`` in the folder that they are written to.
        system: The root file system whose programs a sandbox has; None: the machine's.
    """

    def __init__(self, python: PurePosixPath | None = None, system: Path | None = None) -> None:
        self._first_lines = BESIDE if python is None else f"#!{python}\n"
        self._system = system
        places = [Path(folder) for folder in SYSTEM_PATH.split(":")]
        self._programs = [system / folder.relative_to("/") for folder in places] if system is not None else places
        self._times: list[int | None] = []
        self._current: _Contents = {}
        self._written: _Contents | None = None

    def update(self, folder: Path) -> None:
        """Bring the commands in ``folder`` up to date, even while sandboxes use them. No other code writes there."""
        commands = self._find()
        if commands is self._written and folder.is_dir():
            return
        make_folder(folder)
        for file in list(folder.iterdir()):
            if file.name not in commands:
                file.unlink()
        draft = folder.with_suffix(".new")
        for name, content in commands.items():
            _write(draft, content)
            draft.replace(folder / name)
        self._written = commands

    def add_to(self, folder: Path) -> None:
        """Write those commands to ``folder`` whose names are still free there."""
        for name, content in self._find().items():
            if not os.path.lexists(folder / name):
                _write(folder / name, content)

    def _find(self) -> _Contents:
        # Installers write scripts last, so the time of their folder changes even if a package's folder was seen early.
        times = [_changed(folder) for folder in (*_packages(), _scripts(), *self._programs)]
        if times != self._times:
            found = {**dict(self._installed()), **dict(self._declared())}
            self._current = {name: found[name] for name in sorted(found) if not self._is_taken(name)}
            self._times = times
        return self._current

    def _declared(self) -> Iterator[tuple[str, str]]:
        """Yield the commands that packages declare. Of two with the same name the last counts."""
        for point in reversed(list(_entry_points())):
            name = point.attr.partition(".")[0]
            yield point.name, self._first_lines + _ENTRY.format(module=point.module, name=name, attribute=point.attr)

    def _installed(self) -> Iterator[tuple[str, str | Path]]:
        """Yield the name and path or content of each program that a package has installed. Not all are in Python."""
        if _scripts() in self._programs:
            return
        for program in _scripts().iterdir():
            if program.name.startswith("python") or not program.is_file() or not os.access(program, os.X_OK):
                continue
            text = _python_script(program)
            if text is not None:
                yield program.name, self._first_lines + text
            elif self._system is None:  # otherwise a sandbox does not see the program
                yield program.name, program

    def _is_taken(self, name: str) -> bool:
        """Return whether a system program goes before this command. A Python script of the machine never does.

        Such a script usually belongs to the command's own package, but its interpreter does not find the packages of a
        sandbox.
        """
        found = next((folder / name for folder in self._programs if os.path.lexists(folder / name)), None)
        return found is not None and (self._system is not None or _python_script(found) is None)


@functools.cache
def _packages() -> list[Path]:
    return [Path(folder) for folder in site.getsitepackages()]


@functools.cache
def _scripts() -> Path:
    return Path(sysconfig.get_path("scripts"))


def _entry_points() -> Iterator[EntryPoint]:
    for distribution in distributions(path=[str(folder) for folder in _packages()]):
        try:
            points = distribution.entry_points
        except (OSError, TypeError, ValueError):
            continue  # a file that is damaged, or that an installer is just writing
        for point in points:
            form = point.pattern.fullmatch(point.value) if point.group in _GROUPS else None
            if form is not None and form["attr"] and "/" not in point.name:
                yield point


def _python_script(file: Path) -> str | None:
    """Return the text of a Python script after the lines that name the interpreter, or None if it is no such script."""
    try:
        with file.open("rb") as opened:
            if opened.read(2) != b"#!":
                return None
        first, _, rest = file.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if rest.startswith("'''exec' ") and rest.count("\n") > 1:
        first, _, rest = rest.split("\n", 2)
    return rest if "python" in first else None


def _changed(folder: Path) -> int | None:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None


def _write(file: Path, content: str | Path) -> None:
    file.unlink(missing_ok=True)  # a link that is left over would lead to a program of the machine
    if isinstance(content, Path):
        file.symlink_to(content)
    else:
        write_file(file, content, 0o755)
