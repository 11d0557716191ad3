"""All options of ``bwrap`` for one sandbox, and for a trial in namespaces like a sandbox's."""

from __future__ import annotations

from pathlib import Path

from ..files.layout import Layout
from ..limits.limits import MIB, Limits
from ..rootfs.carried_python import CarriedPython
from .mount_points import make_mount_points, refuse_links
from .mounts import covers, machine_mounts, own_mounts, program_mounts
from .namespaces import HOME, environment, namespaces


def sandbox_options(layout: Layout, limits: Limits, carried: CarriedPython | None, *, several_users: bool) -> list[str]:
    """Those for a prepared file tree, in which the places are made that something is mounted on.

    Parameters:
        carried: the manager's Python, where the sandbox does not have the machine's system folders.

    Raises:
        OSError: the tree, or its root file system, is not as it should be.
    """
    if layout.system is not None and not (layout.system / "usr").is_dir():
        raise OSError(f"its root file system {layout.system} is not there any more")
    root = ("--bind", str(layout.rootfs), "/")
    options = _options(*root, system=layout.system, carried=carried, shared=limits.memory // 2, several=several_users)
    make_mount_points(layout)
    for mount in layout.mounts:
        options += ["--bind", str(mount.source), mount.target]
    options += covers(layout)
    refuse_links(layout.rootfs, options)
    return options


def trial_options(
    *, several_users: bool, system: Path | None = None, carried: CarriedPython | None = None
) -> list[str]:
    """Those for a tree with nothing in it but an empty home.

    Parameters:
        system: another root file system than the machine's.
        carried: the manager's Python, if so.
    """
    root = ("--tmpfs", "/", "--dir", HOME)
    return _options(*root, system=system, carried=carried, shared=MIB, several=several_users)


def _options(*root: str, system: Path | None, carried: CarriedPython | None, shared: int, several: bool) -> list[str]:
    return [
        *namespaces(several_users=several),
        *root,
        *program_mounts(system),
        *machine_mounts(shared, several_users=several),
        *(own_mounts() if carried is None else carried.options()),
        *environment(),
    ]
