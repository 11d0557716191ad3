"""The Python of a sandbox: the interpreter, the folders that it needs, and the virtual environment in the user's home.

The interpreter is the manager's. The virtual environment gives ``pip install`` a writable folder. Python finds the
packages there before the packages of the manager's interpreter, for example those of the ``data`` extra.
"""

from __future__ import annotations

import compileall
import functools
import shlex
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import kruise_agents

from ....protocol.control import ProgramArguments, ProgramDescriptors, ProgramLimits
from ..files.layout import USERNAME
from ..files.trees import link_again, make_folder, write_file
from .commands import COMMANDS

_PROFILE = """\
# Read by login shells. The user's own programs come first.
if [ -n "$BASH_VERSION" ] && [ -f "$HOME/.bashrc" ]; then
    . "$HOME/.bashrc"
fi
case ":$PATH:" in
    *":COMMANDS:"*) ;;
    *) PATH="COMMANDS:$PATH" ;;
esac
case ":$PATH:" in
    *":$HOME/.local/bin:"*) ;;
    *) PATH="$HOME/.local/bin:$PATH" ;;
esac
""".replace("COMMANDS", str(COMMANDS))
_PIP = """\
#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/python" -P -m pip "$@"
"""
# Python executes this line in two passes: before and after it has switched off the packages of users, as it does in
# each virtual environment. What root installs for itself goes where everybody finds it, because code runs as root.
# Another user whose program root has started does not take that place over.
_USERS_PACKAGES = (
    "import os, site, sys; "
    "os.geteuid() or os.environ.setdefault('PYTHONUSERBASE', sys.prefix); "
    "os.geteuid() and os.environ.get('PYTHONUSERBASE') == sys.prefix and os.environ.pop('PYTHONUSERBASE'); "
    "site.ENABLE_USER_SITE = site.check_enableusersite(); "
    "site.getusersitepackages().startswith(sys.prefix + os.sep) or site.addusersitepackages(None)\n"
)
_SUDO = """\
#!/bin/sh
exec {python} -I -S {client} "$@"
"""


@dataclass(frozen=True, slots=True)
class PythonPlaces:
    """The paths of the manager's Python in a sandbox."""

    base: Path  # the interpreter for new virtual environments
    packages: tuple[str, ...]
    ours: Path  # the folder of kruise_agents
    environment: PurePosixPath | None = None  # a virtual environment with the packages; None: that of the manager

    @property
    def executable(self) -> str:
        """The path of an interpreter that finds the manager's packages."""
        return sys.executable if self.environment is None else str(self.environment / "bin/python")


def own_places() -> PythonPlaces:
    """Return the paths of Python on the host, which also hold in sandboxes without a root file system of their own."""
    return PythonPlaces(base_executable(), tuple(site.getsitepackages()), Path(kruise_agents.__file__).parent)


def base_executable() -> Path:
    """Return the interpreter on which the manager's virtual environment is based, with links resolved."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def program_arguments(
    home: Path, path: str, descriptors: ProgramDescriptors, limits: ProgramLimits
) -> ProgramArguments:
    """Return the arguments of a sandbox's program, which sees its home folder as ``home``.

    ``PATH`` begins with the folder of the user's own programs; ``path`` is the rest of it.
    """
    local = home / ".local" / "bin"
    return ProgramArguments(USERNAME, home, f"{local}:{path}", local / "python", descriptors, limits)


def compile_program() -> None:
    """Compile the modules that only sandboxes import, unless they are up to date or Python may not write bytecode."""
    # A sandbox that sees this package read-only would compile them itself, which takes a third of its start.
    if not sys.dont_write_bytecode:
        compileall.compile_dir(Path(kruise_agents.__file__).parent / "sandbox", quiet=2)


def readable_folders() -> list[Path]:
    """Return the folders outside ``/usr`` that the interpreter and this package need. No folder contains another."""
    folders: list[Path] = []
    for folder in _needed_folders():
        if folder.is_dir() and not any(folder.is_relative_to(outer) for outer in folders):
            folders.append(folder)
    return folders


@functools.cache
def _needed_folders() -> list[Path]:
    needed = {
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.executable).parent,
        base_executable().parent.parent,
        Path(kruise_agents.__file__).parent,
        *(Path(folder) for folder in site.getsitepackages()),
        *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")),
    }
    outside = [folder for folder in needed if not folder.is_relative_to("/usr")]
    return sorted(outside, key=lambda path: len(path.parts))


def fill_login_files(home: Path) -> None:
    """Write the files that a login shell reads in a user's home."""
    write_file(home / ".profile", _PROFILE)
    write_file(home / ".bashrc", "# Read by login shells too, through ~/.profile.\n")


def sudo_script(python: PythonPlaces) -> str:
    """Return the script that is ``sudo`` in a sandbox."""
    client = python.ours / "sandbox" / "sudo" / "client.py"
    return _SUDO.format(python=shlex.quote(str(python.base)), client=shlex.quote(str(client)))


def fill_home(home: Path) -> None:
    """Put the login files, ``sudo``, ``pip`` and the virtual environment into an empty home folder.

    The home can be moved, copied or mounted elsewhere afterwards, because no file in the home names the home's path.
    """
    fill_login_files(home)
    set_home_python(home, own_places())


def set_home_python(home: Path, python: PythonPlaces) -> None:
    """Set the Python of a home folder: write the virtual environment, ``pip`` and ``sudo`` there, or overwrite them."""
    local = home / ".local"
    packages = make_environment(local, python)
    write_file(packages / "_install_for_users.pth", _USERS_PACKAGES)  # before the file with the manager's packages
    write_file(local / "bin" / "pip", _PIP, 0o755)
    link_again(local / "bin" / "pip", "pip3")
    write_file(local / "bin" / "sudo", sudo_script(python), 0o755)


def make_environment(folder: Path, python: PythonPlaces) -> Path:
    """Write a virtual environment with links to the interpreter, and return its folder for packages.

    Imports search the manager's packages last.
    """
    binaries = folder / "bin"
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    make_folder(binaries)
    make_folder(packages)
    # Python takes every word but "true" for false. Because of "false", pip would refuse the option --user.
    write_file(
        folder / "pyvenv.cfg",
        f"home = {python.base.parent}\ninclude-system-site-packages = False\nversion = {sys.version.split()[0]}\n",
    )
    (binaries / "python").unlink(missing_ok=True)
    (binaries / "python").symlink_to(python.base)
    for name in ("python3", f"python3.{sys.version_info[1]}"):
        link_again(binaries / "python", name)
    lines = [f"import site; site.addsitedir({folder!r})" for folder in python.packages]
    if python.environment is not None:
        lines.append(str(python.ours.parent))  # kruise_agents itself: an editable installation is not in the packages
    write_file(packages / "_manager_packages.pth", "\n".join(lines) + "\n")
    return packages
