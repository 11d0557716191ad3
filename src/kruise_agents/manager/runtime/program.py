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
from pathlib import Path

import kruise_agents

from .layout import SYSTEM_PATH, USERNAME

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


def program_argv(home: str, *, several_users: bool = False) -> list[str]:
    """The command line of the sandbox's program, as seen from where it runs.

    Parameters:
        home: the home folder as the program sees it.
        several_users: whether it starts as the only user, or becomes the sandbox's root and starts programs as others.
    """
    return [
        sys.executable,
        "-I",
        "-m",
        "kruise_agents.sandbox",
        "--user",
        USERNAME,
        "--home",
        home,
        "--path",
        f"{home}/.local/bin:{SYSTEM_PATH}",
        "--python",
        f"{home}/.local/bin/python",
        *(["--several-users"] if several_users else []),
    ]


def compile_program() -> None:
    """Compile what only sandboxes import, where an installer has not done so.

    They see this package read-only, so that each would compile it anew, for a third of the time of its start.
    """
    if not sys.dont_write_bytecode:
        compileall.compile_dir(Path(kruise_agents.__file__).parent / "sandbox", quiet=2)


def readable_folders() -> list[Path]:
    """Folders outside ``/usr`` that the interpreter and this package need, without duplicates or nested ones."""
    base_executable = Path(getattr(sys, "_base_executable", sys.executable))
    needed = [
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(sys.executable).parent,
        base_executable.resolve().parent.parent,
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


def sudo_script() -> str:
    """The ``sudo`` of sandboxes."""
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    client = Path(kruise_agents.__file__).parent / "sandbox" / "sudo" / "client.py"
    return _SUDO.format(python=shlex.quote(str(base)), client=shlex.quote(str(client)))


def fill_home(home: Path) -> None:
    """Put the login profile, ``sudo`` and the thin virtual environment into an empty home folder.

    Nothing in it depends on where the folder lies, so it can be moved, mounted elsewhere or copied.
    """
    fill_login_files(home)
    local = home / ".local"
    binaries = local / "bin"
    packages = local / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    binaries.mkdir(parents=True)
    packages.mkdir(parents=True)
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    (local / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}\n",
        encoding="utf-8",
    )
    for name in ("python", "python3", f"python3.{sys.version_info[1]}"):
        (binaries / name).symlink_to(base)
    for name in ("pip", "pip3"):
        (binaries / name).write_text(_PIP, encoding="utf-8")
        (binaries / name).chmod(0o755)
    (binaries / "sudo").write_text(sudo_script(), encoding="utf-8")
    (binaries / "sudo").chmod(0o755)
    lines = [f"import site; site.addsitedir({folder!r})" for folder in site.getsitepackages()]
    (packages / "_manager_packages.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
