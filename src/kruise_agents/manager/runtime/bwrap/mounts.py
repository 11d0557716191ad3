"""Options of ``bwrap`` for what a sandbox sees of the machine, beside the file tree that is its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ....errors import ConfigurationError
from ..files.layout import Layout
from ..rootfs.carried_python import places
from ..rootfs.custom import SYSTEM_FOLDERS
from ..rootfs.python import own_places, readable_folders, sudo_script
from ..rootfs.skeleton import bound_from_host

_REAL_SUDO = Path("/usr/bin/sudo")
"""It cannot work in a sandbox, so that ours lies over it."""
_PRELOADED = Path("/etc/ld.so.preload")
"""Names libraries that every program loads, also the first ones, which are not within their limits yet."""
_PROCESSORS = Path("/sys/devices/system/cpu")
_CLOSED = ("kcore", "keys", "key-users", "kmsg", "timer_list", "sched_debug", "latency_stats", "sysrq-trigger")
"""Files in /proc about the whole machine that tell or change too much; most are for the host's root only."""
_OWN_SETTINGS = ("/proc/sys/user/max_user_namespaces", "/proc/sys/net/ipv4/ip_unprivileged_port_start")
"""Kernel settings of the sandbox's own namespaces, which that program writes once."""


def machine_mounts(shared_memory: int, *, several_users: bool) -> Iterator[str]:
    """Devices, and what the kernel tells.

    Parameters:
        shared_memory: how large ``/dev/shm`` may become, in bytes.
        several_users: whether the sandbox's program makes its own user namespace.
    """
    yield from ("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(shared_memory))
    # Read-only: what can be written to in memory has to have a size, and this folder has none.
    yield from ("--tmpfs", "/dev/shm", "--remount-ro", "/dev")  # noqa: S108 - its own
    yield from _kernel_settings_mounts()
    # What programs look up of the machine; nothing else of /sys, which also holds the host's control groups.
    yield from _way_to(_PROCESSORS)
    yield from ("--ro-bind-try", str(_PROCESSORS), str(_PROCESSORS))
    if several_users:
        for setting in _OWN_SETTINGS:
            yield from ("--bind", setting, setting)


def program_mounts(system: Path | None = None) -> Iterator[str]:
    """Programs and libraries: of another root file system, or the host's."""
    root = system or Path("/")
    yield from ("--ro-bind", str(root / "usr"), "/usr")
    for name in SYSTEM_FOLDERS:
        folder = root / name
        if folder.is_symlink():
            yield from ("--symlink", str(folder.readlink()), f"/{name}")
        elif folder.is_dir():
            yield from ("--ro-bind", str(folder), f"/{name}")


def own_mounts() -> Iterator[str]:
    """What goes with the system folders of this machine: its public settings, and the manager's Python in its place."""
    for path in bound_from_host():
        yield from _way_to(Path(path))
        yield from ("--ro-bind-try", path, path)
    folders = readable_folders()
    for folder in folders:
        yield from _way_to(folder)
        yield from ("--ro-bind", str(folder), str(folder))
    # A virtual environment's interpreter may be a chain of links through folders that nobody should see whole.
    link = Path(sys.executable)
    while link.is_symlink():
        target = Path(os.path.normpath(link.parent / link.readlink()))
        if not any(link.is_relative_to(folder) for folder in (*folders, Path("/usr"))):
            yield from _way_to(link)
            yield from ("--symlink", str(target), str(link))
        link = target


def covers(layout: Layout) -> Iterator[str]:
    """What lies over files of the tree, and of the host's folders. Not from the tree, which code may have laid out."""
    laid = {"ld.so.preload": ("", _PRELOADED)}
    if (sudo := _place_of_sudo(layout.system)) is not None:
        laid["sudo"] = sudo_script(own_places() if layout.system is None else places()), sudo
    for name, (text, place) in laid.items():
        file = layout.root / name
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755)
        yield from ("--ro-bind", str(file), str(place))


def refuse_visible(state_dir: Path) -> None:
    """Refuse a folder of the manager's that every sandbox would see.

    Raises:
        ConfigurationError: it is one.
    """
    real = state_dir.resolve()
    for folder in (Path("/usr"), Path("/etc"), *readable_folders()):
        if real.is_relative_to(folder.resolve()):
            raise ConfigurationError(
                f"the state folder {state_dir} lies in {folder}, which every sandbox can read; choose another "
                f"with --state-dir"
            )


def _place_of_sudo(system: Path | None) -> Path | None:
    """Where the real ``sudo`` is in a sandbox, if it is."""
    if system is None:
        return _REAL_SUDO.resolve() if _REAL_SUDO.is_file() else None
    real = system / _REAL_SUDO.relative_to("/")
    return _REAL_SUDO if real.is_file() and not real.is_symlink() else None


def _way_to(mounted: Path) -> Iterator[str]:
    """The folders above a mount, open to every user; left to itself, ``bwrap`` makes them for their owner only."""
    for folder in reversed(mounted.parents[:-1]):
        yield from ("--perms", "0755", "--dir", str(folder))


def _kernel_settings_mounts() -> Iterator[str]:
    """Everything in ``/proc`` that is not a process, read-only.

    The kernel lets the host's user id 0 write ``/proc/sys`` and the like without any capability, and under a manager
    that is run by root the sandbox's user is that id outside.
    """
    for entry in sorted(Path("/proc").iterdir()):
        if entry.name.isdigit() or entry.is_symlink():
            continue
        if entry.name in _CLOSED:
            yield from ("--ro-bind", "/dev/null", str(entry))
        elif entry.is_dir() or entry.stat().st_mode & 0o222:
            yield from ("--ro-bind", str(entry), str(entry))
