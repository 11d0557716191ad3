"""The Python side of a sandbox: which interpreter runs it, what must be readable, what lies in the user's home.

The interpreter is the one that runs the manager, read-only. In the user's home lies a thin virtual environment on top
of it, so that ``pip install`` has a writable place which comes first, while everything installed for the manager's
interpreter (the ``data`` extra, for example) can be imported.
"""

from __future__ import annotations

import compileall
import shlex
import site
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import kruise_agents

from ....protocol.control import ProgramArguments, ProgramDescriptors, ProgramLimits
from ..files.layout import SYSTEM_PATH, USERNAME

_PROFILE = """\
# Read by login shells. The user's own programs come first.
if [ -n "$BASH_VERSION" ] && [ -f "$HOME/.bashrc" ]; then
    . "$HOME/.bashrc"
fi
case ":$PATH:" in
    *":$HOME/.local/bin:"*) ;;
    *) PATH="$HOME/.local/bin:$PATH" ;;
esac
"""
_PIP = """\
#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/python" -m pip "$@"
"""
_SUDO = """\
#!/bin/sh
exec {python} -I -S {client} "$@"
"""


@dataclass(frozen=True, slots=True)
class PythonPlaces:
    """Where the manager's Python lies for a sandbox.

    Parameters:
        base: the interpreter that virtual environments are made on.
        packages: folders with the manager's packages.
        ours: this package.
        environment: a virtual environment with the manager's packages; None: the manager's own.
    """

    base: Path
    packages: tuple[str, ...]
    ours: Path
    environment: PurePosixPath | None = None

    @property
    def executable(self) -> str:
        """The interpreter that has the manager's packages."""
        return sys.executable if self.environment is None else str(self.environment / "bin/python")


def own_places() -> PythonPlaces:
    """Where it lies on this machine, and in sandboxes that have the machine's system folders."""
    return PythonPlaces(base_executable(), tuple(site.getsitepackages()), Path(kruise_agents.__file__).parent)


def base_executable() -> Path:
    """The interpreter that runs the manager, without the virtual environment around it."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def program_arguments(
    home: Path,
    descriptors: ProgramDescriptors,
    limits: ProgramLimits,
    *,
    several_users: bool = False,
    isolated: bool = False,
    own_init: bool = False,
) -> ProgramArguments:
    """Return the arguments of a sandbox's program.

    Args:
        home: The home folder as the program sees it.
        several_users: See :class:`.protocol.control.ProgramArguments`, as for the last two.
    """
    return ProgramArguments(
        user=USERNAME,
        home=home,
        path=f"{home}/.local/bin:{SYSTEM_PATH}",
        python=home / ".local/bin/python",
        descriptors=descriptors,
        limits=limits,
        several_users=several_users,
        isolated=isolated,
        own_init=own_init,
    )


def compile_program() -> None:
    """Compile what only sandboxes import, where an installer has not done so.

    They see this package read-only, so that each would compile it anew, for a third of the time of its start.
    """
    if not sys.dont_write_bytecode:
        compileall.compile_dir(Path(kruise_agents.__file__).parent / "sandbox", quiet=2)


def readable_folders() -> list[Path]:
    """Folders outside ``/usr`` that the interpreter and this package need, without duplicates or nested ones."""
    needed = [
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.executable).parent,
        base_executable().parent.parent,
        Path(kruise_agents.__file__).parent,
        *(Path(folder) for folder in site.getsitepackages()),
        *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")),
    ]
    folders: list[Path] = []
    for folder in sorted(set(needed), key=lambda path: len(path.parts)):
        covered = folder.is_relative_to("/usr") or any(folder.is_relative_to(one) for one in folders)
        if not covered and folder.is_dir():
            folders.append(folder)
    return folders


def fill_login_files(home: Path) -> None:
    """What a login shell reads, for any user's home."""
    (home / ".profile").write_text(_PROFILE, encoding="utf-8")
    (home / ".bashrc").write_text("# Read by login shells too, through ~/.profile.\n", encoding="utf-8")


def sudo_script(python: PythonPlaces) -> str:
    """The ``sudo`` of sandboxes."""
    client = python.ours / "sandbox" / "sudo" / "client.py"
    return _SUDO.format(python=shlex.quote(str(python.base)), client=shlex.quote(str(client)))


def fill_home(home: Path) -> None:
    """Put the login profile, ``sudo`` and the thin virtual environment into an empty home folder.

    Nothing in it depends on where the folder lies, so it can be moved, mounted elsewhere or copied.
    """
    fill_login_files(home)
    aim_home(home, own_places())


def aim_home(home: Path, python: PythonPlaces) -> None:
    """Put ``sudo`` and the thin virtual environment into a home folder, in place of those that are there."""
    local = home / ".local"
    make_environment(local, python)
    for name in ("pip", "pip3"):
        _write_program(local / "bin" / name, _PIP)
    _write_program(local / "bin" / "sudo", sudo_script(python))


def make_environment(folder: Path, python: PythonPlaces) -> None:
    """A virtual environment without programs: an interpreter that finds the manager's packages behind its own."""
    binaries = folder / "bin"
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    binaries.mkdir(parents=True, exist_ok=True)
    packages.mkdir(parents=True, exist_ok=True)
    (folder / "pyvenv.cfg").write_text(
        f"home = {python.base.parent}\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}\n",
        encoding="utf-8",
    )
    for name in ("python", "python3", f"python3.{sys.version_info[1]}"):
        (binaries / name).unlink(missing_ok=True)
        (binaries / name).symlink_to(python.base)
    lines = [f"import site; site.addsitedir({one!r})" for one in python.packages]
    if python.environment is not None:
        lines.append(str(python.ours.parent))  # an installation for development is elsewhere than its packages say
    (packages / "_manager_packages.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
