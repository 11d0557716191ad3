"""Options of ``bwrap``: to run a sandbox, to try out its namespaces, and to change files as the files' owners."""

from __future__ import annotations

from pathlib import Path

from ....protocol.names import USER_ID
from ..files.layout import SYSTEM_PATH, USERNAME, Layout
from ..limits.limits import MIB, Limits
from ..rootfs.carried_python import FOLDER, CarriedPython
from ..rootfs.commands import COMMANDS
from .devices import device_mounts
from .mount_points import is_reserved, make_mount_points, refuse_links
from .mounts import command_mounts, file_mounts, machine_mounts, own_mounts, program_mounts

HOME = f"/home/{USERNAME}"
HOST_NAME = "e2b.local"
VARIABLES = {"LANG": "C.UTF-8", "PATH": SYSTEM_PATH, "PWD": HOME}  # bwrap sets PWD in any case
# A user namespace that is made inside would give its maker capabilities, enough to mount the host's control groups.
EXECUTED = (
    *("--disable-userns", "--clearenv", "--chdir", HOME),
    *(word for variable in VARIABLES.items() for word in ("--setenv", *variable)),
)
"""The options for a program that ``bwrap`` itself executes, in a sandbox with one user."""
# A process of ours needs these capabilities until it has become the root of the sandbox.
_FIRST_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "NET_ADMIN", "SETGID", "SETUID")


def sandbox_options(
    layout: Layout,
    limits: Limits,
    carried: CarriedPython | None,
    commands: Path | None,
    devices: Path | None,
    *,
    several_users: bool,
) -> list[str]:
    """Return the options for a sandbox, and make the mount points in its prepared file tree.

    ``commands`` is the folder with the commands of the manager's packages. ``devices`` is the folder with device files
    that replace the host's.
    Raises OSError if a link is in the way of a mount, if a volume is at a reserved place, or if the root file system is
    missing.
    """
    if layout.system is not None and not (layout.system / "usr").is_dir():
        raise OSError(f"its root file system {layout.system} is not there any more")
    root = ("--bind", str(layout.rootfs), "/")
    options = _options(*root, system=layout.system, carried=carried, shared=limits.memory // 2, several=several_users)
    options += file_mounts(layout)
    options += command_mounts(commands)
    options += device_mounts(devices) if devices is not None else ()
    for mount in layout.mounts:
        if is_reserved(mount.target, options):
            raise OSError(f"no volume can be at {mount.target}, a place that the sandbox needs for itself")
    make_mount_points(layout)
    for mount in layout.mounts:
        options += ["--bind", str(mount.source), mount.target]
    refuse_links(layout.rootfs, options)
    return options


def trial_options(
    *, several_users: bool, system: Path | None = None, carried: CarriedPython | None = None
) -> list[str]:
    """Return the options for a trial: a sandbox whose own file tree is only an empty home folder."""
    root = ("--tmpfs", "/", "--dir", HOME)
    return _options(*root, system=system, carried=carried, shared=MIB, several=several_users)


def reserved_mounts(system: Path | None, *, several_users: bool) -> list[str]:
    """Return the options for all that every sandbox with the root file system ``system`` has mounted."""
    own = own_mounts() if system is None else ("--tmpfs", str(FOLDER))
    machine = machine_mounts(MIB, several_users=several_users)
    return [*program_mounts(system), *machine, *own, *command_mounts(Path(COMMANDS))]


def _options(*root: str, system: Path | None, carried: CarriedPython | None, shared: int, several: bool) -> list[str]:
    return [
        *_namespaces(several_users=several),
        *root,
        *program_mounts(system),
        *machine_mounts(shared, several_users=several),
        *(own_mounts() if carried is None else carried.options()),
    ]


def _namespaces(*, several_users: bool) -> list[str]:
    options = [
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--hostname", HOST_NAME),
        # Otherwise bwrap, if root runs it, keeps all capabilities inside the user namespace.
        *("--cap-drop", "ALL"),
        "--die-with-parent",
        "--new-session",
    ]
    if not several_users:
        return [*options, "--uid", str(USER_ID), "--gid", str(USER_ID)]
    return [*options, *_capabilities(*_FIRST_CAPABILITIES), "--uid", "0", "--gid", "0"]


def owners_namespace(*capabilities: str) -> list[str]:
    """Return the options for a user namespace with the IDs of sandbox users. Commands there get ``capabilities``."""
    return [
        *("--unshare-user", "--uid", "0", "--gid", "0", "--die-with-parent", "--cap-drop", "ALL"),
        *_capabilities(*capabilities),
    ]


def _capabilities(*names: str) -> list[str]:
    return [word for name in names for word in ("--cap-add", f"CAP_{name}")]
