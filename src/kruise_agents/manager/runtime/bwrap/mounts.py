"""Options of ``bwrap`` for the parts of the machine that a sandbox sees besides its own file tree."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from ....errors import ConfigurationError
from ..files.layout import Layout
from ..files.trees import write_file
from ..rootfs.carried_python import places
from ..rootfs.commands import COMMANDS
from ..rootfs.custom import SYSTEM_FOLDERS
from ..rootfs.python import own_places, readable_folders, sudo_script
from ..rootfs.skeleton import bound_from_host

_REAL_SUDO = Path("/usr/bin/sudo")  # cannot work in a sandbox, so our own sudo is mounted over it
# An empty file is mounted over this: even the first programs, which have no limits yet, load the libraries named in it.
_PRELOADED = Path("/etc/ld.so.preload")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROCESSORS = Path("/sys/devices/system/cpu")
# Files in /proc that show or change too much of the whole machine. Most of them are for the host's root only.
_CLOSED = ("kcore", "keys", "key-users", "kmsg", "timer_list", "sched_debug", "latency_stats", "sysrq-trigger")
# Kernel settings of the sandbox's own namespaces, which a process of ours writes once.
_NAMESPACES_SETTING = "/proc/sys/user/max_user_namespaces"
_PORTS_SETTING = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


def machine_mounts(shared_memory: int, *, several_users: bool) -> Iterator[str]:
    """Yield the options for ``/dev``, ``/proc`` and a part of ``/sys``. ``/dev/shm`` gets ``shared_memory`` bytes."""
    yield from ("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(shared_memory))
    # Read-only: a writable folder in memory needs a size limit, and /dev has none.
    yield from ("--tmpfs", "/dev/shm", "--remount-ro", "/dev")  # noqa: S108 - the sandbox's own
    yield from _kernel_settings_mounts()
    # Programs look up processors. Nothing else of /sys is mounted, because the host's control groups are there.
    # The folders above them lie in memory, where they take less time than on a disk. They are read-only, as /dev is.
    yield from ("--perms", "0755", "--tmpfs", "/sys")
    yield from _parent_folders(_PROCESSORS, {Path("/sys")})
    yield from ("--ro-bind-try", str(_PROCESSORS), str(_PROCESSORS), "--remount-ro", "/sys")
    for setting in (_NAMESPACES_SETTING, _PORTS_SETTING) if several_users else (_NAMESPACES_SETTING,):
        yield from ("--bind", setting, setting)


def program_mounts(system: Path | None = None) -> Iterator[str]:
    """Yield the options that mount programs and libraries of the root file system ``system`` (None: of the host)."""
    root = system or Path("/")
    yield from ("--ro-bind", str(root / "usr"), "/usr")
    for name in SYSTEM_FOLDERS:
        folder = root / name
        if folder.is_symlink():
            yield from ("--symlink", str(folder.readlink()), f"/{name}")
        elif folder.is_dir():
            yield from ("--ro-bind", str(folder), f"/{name}")


def own_mounts() -> Iterator[str]:
    """Yield the options that mount the manager's Python and public files of ``/etc``, at the host's paths."""
    made: set[Path] = set()
    for path in bound_from_host():
        yield from _parent_folders(Path(path), made)
        yield from ("--ro-bind-try", path, path)
    folders = readable_folders()
    for folder in folders:
        yield from _parent_folders(folder, made)
        yield from ("--ro-bind", str(folder), str(folder))
    # The interpreter of a virtual environment may be a chain of links. Links outside the mounted folders are made anew.
    link = Path(sys.executable)
    while link.is_symlink():
        target = Path(os.path.normpath(link.parent / link.readlink()))
        if not any(link.is_relative_to(folder) for folder in (*folders, Path("/usr"))):
            yield from _parent_folders(link, made)
            yield from ("--symlink", str(target), str(link))
        link = target


def file_mounts(layout: Layout) -> Iterator[str]:
    """Write files that replace ``ld.so.preload``, the boot ID and any real ``sudo``. Yield options that mount them."""
    # A start of a sandbox is a boot, and programs tell boots apart by this ID.
    files = {"ld.so.preload": ("", 0o644, _PRELOADED), "boot_id": (f"{uuid.uuid4()}\n", 0o644, _BOOT_ID)}
    if (sudo := _place_of_sudo(layout.system)) is not None:
        files["sudo"] = sudo_script(own_places() if layout.system is None else places()), 0o755, sudo
    for name, (text, mode, place) in files.items():
        file = layout.root / name
        write_file(file, text, mode)
        yield from ("--ro-bind", str(file), str(place))


def command_mounts(folder: Path | None) -> Iterator[str]:
    """Yield the options that mount a folder with the commands of the manager's packages."""
    if folder is not None:
        yield from _parent_folders(Path(COMMANDS))
        yield from ("--ro-bind-try", str(folder), str(COMMANDS))


def refuse_visible(state_dir: Path) -> None:
    """Raise a ConfigurationError if the state folder lies in ``/usr``, ``/etc`` or a folder that Python needs."""
    real = state_dir.resolve()
    for folder in (Path("/usr"), Path("/etc"), *readable_folders()):
        if real.is_relative_to(folder.resolve()):
            raise ConfigurationError(
                f"the state folder {state_dir} lies in {folder}, which every sandbox can read; choose another "
                f"with --state-dir"
            )


def _place_of_sudo(system: Path | None) -> Path | None:
    # Return the path of the real sudo in a sandbox, or None if there is none to mount over.
    if system is None:
        return _REAL_SUDO.resolve() if _REAL_SUDO.is_file() else None
    real = system / _REAL_SUDO.relative_to("/")
    return _REAL_SUDO if real.is_file() and not real.is_symlink() else None


def _parent_folders(mounted: Path, made: set[Path] | None = None) -> Iterator[str]:
    # Yield options for the folders above a mount, open to every user. By default bwrap makes them for the owner only.
    # Folders in ``made`` are left out, and the others added to it.
    made = set() if made is None else made
    for folder in reversed(mounted.parents[:-1]):
        if folder not in made:
            made.add(folder)
            yield from ("--perms", "0755", "--dir", str(folder))


def _kernel_settings_mounts() -> Iterator[str]:
    # Yield options that make /proc read-only, except processes. The kernel lets the host's user ID 0 write to /proc/sys
    # and the like without a capability. If root runs the manager, processes of a sandbox may have this ID on the host.
    with os.scandir("/proc") as listing:  # not Path.iterdir: there may be thousands of processes
        entries = {entry.name: entry for entry in listing if not entry.name.isdigit() and not entry.is_symlink()}
    for name, entry in sorted(entries.items()):
        if name in _CLOSED:
            yield from ("--ro-bind", "/dev/null", entry.path)
        elif entry.is_dir() or entry.stat().st_mode & 0o222:
            yield from ("--ro-bind", entry.path, entry.path)
