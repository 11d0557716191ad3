"""The change from the manager's user to the sandbox's own ``root``, before a sandbox's program starts.

bubblewrap builds the sandbox's file tree in a user namespace where id 0 is the manager's user, because only that user
can reach every mounted folder. A process that the manager has started (see ``sandbox/zygote/entry.py``) then enters an
inner user namespace, which has all ids but the manager's. There the process keeps few capabilities: enough to be
``root`` among the sandbox's users. These capabilities do not count for mounts and the network, which belong to the
outer namespace.

Until then the process has rights over the whole file tree. So these functions look at names and owners of files in
the tree, and read no file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from ...protocol.control import TRIAL_OUTPUT
from ...protocol.names import ID_COUNT, USER_ID
from . import capabilities
from .process import check, libc, make_dumpable

_CLONE_NEWUSER = 0x10000000
# chown, dac_override, fowner, fsetid, kill, setgid, setuid, net_bind_service, sys_chroot, sys_ptrace: over the
# sandbox's own users, files and processes.
KEPT = (0, 1, 3, 4, 5, 6, 7, 10, 18, 19)
_OWN_ID = f"{USER_ID} {USER_ID} 1"
_ACL_VERSION = 2  # see linux/posix_acl_xattr.h
_NOBODY = 0xFFFFFFFF
_LOWEST_OPEN_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_MOUNTED = ("dev", "proc", "sys", "usr")
"""Folders in ``/`` that are mounts and keep their owners."""


def become_root_of_sandbox(home: Path, helper: socket.socket) -> None:
    """Give the file tree to the users of the sandbox, and enter the inner user namespace as its ``root``.

    Files of the manager's user get a new owner: the default user in ``home``, and ``root`` elsewhere. ``helper`` leads
    to a process that calls :func:`map_ids` for this process. Must be called while this process has a single thread.
    Raises OSError if the kernel refuses a step that is needed.
    """
    _give("/", 0, whole=False)
    for name in os.listdir("/"):  # noqa: PTH208 - names are faster than a Path for each file
        if name not in _MOUNTED:
            _give(f"/{name}", 0, whole=True, leave=str(home))
    shared = home / ".local"
    # At later starts the folder belongs to a user, and its folders pass the access control list on.
    new = shared.is_dir() and not shared.is_symlink() and shared.lstat().st_uid == 0
    _give(str(home), USER_ID, whole=True)
    if new:
        for inner, _, _ in os.walk(shared):
            _share(inner, USER_ID)
    _LOWEST_OPEN_PORT.write_text("0", encoding="utf-8")
    _enter(helper)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _keep_capabilities()
    make_dumpable()


def become_only_user() -> None:
    """Enter an inner user namespace that has the sandbox's only user, without any capability.

    The first process stays in the outer user namespace, so this user can neither trace the process nor reach what the
    process has open. Must be called while this process has a single thread. Raises OSError if the kernel refuses that.
    """
    make_dumpable()
    check(libc.unshare(_CLONE_NEWUSER), "no user namespace for the sandbox's user")
    for name, text in (("setgroups", "deny"), ("uid_map", _OWN_ID), ("gid_map", _OWN_ID)):
        Path(f"/proc/self/{name}").write_text(text, encoding="utf-8")
    capabilities.bound(0)
    capabilities.hold(0, 0, 0)


def _give(path: str, inner: int, *, whole: bool, leave: str | None = None) -> None:
    if path == leave:
        return
    outer = inner + 1
    try:
        status = os.lstat(path)
        if status.st_uid != 0:
            return  # given at an earlier start, with everything in it; or a volume, which may be large
        os.lchown(path, outer, outer)
        if whole and stat.S_ISDIR(status.st_mode):
            for name in os.listdir(path):  # noqa: PTH208 - the same as above
                _give(f"{path}/{name}", inner, whole=True, leave=leave)
    except OSError as error:
        # Read-only mounts of the host keep their owners, and a path may be missing.
        if error.errno not in (errno.EROFS, errno.ENOENT, errno.EPERM, errno.EACCES):
            raise


def _share(folder: str, user: int) -> None:
    """Give ``user`` all rights to what any user will create in ``folder``, or in new folders below it.

    So the user can replace packages that ``root`` has installed. Without ACLs in the file system, do nothing.
    """
    everything, read = 7, 5
    entries = (
        (0x01, everything, _NOBODY),  # the owner
        (0x02, everything, user + 1),
        (0x04, read, _NOBODY),  # the group
        (0x10, everything, _NOBODY),  # the limit of the two entries before
        (0x20, read, _NOBODY),  # others
    )
    acl = struct.pack("<I", _ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    with contextlib.suppress(OSError):
        os.setxattr(folder, "system.posix_acl_default", acl)


def map_ids(pid: int, requests: socket.socket) -> int:
    """Write the ID maps of a process's new user namespace when the process asks for that. Return an exit code.

    The process asks with a byte, and gets a byte when the maps are written. The caller must be outside of the new
    namespace. If the process closes its end without asking, nothing is written.
    """
    try:
        if requests.recv(1):
            for kind in ("uid", "gid"):
                Path(f"/proc/{pid}/{kind}_map").write_text(f"0 1 {ID_COUNT}\n", encoding="utf-8")
            requests.send(b"x")
    except OSError as error:
        sys.stderr.write(f"mapping the ids of the sandbox's users: {error}\n")
        return 1
    return 0


def _enter(helper: socket.socket) -> None:
    """Enter a new user namespace, and have ``helper`` write its ID maps from outside."""
    check(libc.unshare(_CLONE_NEWUSER), "no user namespace for the sandbox's users")
    helper.send(b"x")
    if not helper.recv(1):
        raise OSError(errno.EPERM, "the ids of the sandbox's users could not be mapped")


def _keep_capabilities() -> None:
    """Give up every capability but :data:`KEPT`, for this process and all that it starts."""
    kept = sum(1 << capability for capability in KEPT)
    capabilities.bound(kept)
    capabilities.hold(kept, kept, 0)


def main(arguments: Sequence[str]) -> int:
    """Become the default user of a sandbox whose root runs this process. Check that the user can read some files.

    ``arguments`` are the files. Print ``TRIAL_OUTPUT`` and return 0 if the user can read them, else return 1.
    """
    os.setresgid(USER_ID, USER_ID, USER_ID)
    os.setresuid(USER_ID, USER_ID, USER_ID)
    for name in arguments:
        if not os.access(name, os.R_OK):
            sys.stderr.write(f"{name} is not readable for other users than its owner\n")
            return 1
    print(TRIAL_OUTPUT)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
