"""Disk limits by the kernel: project quotas of ext4 and xfs, where root runs the manager.

Each file has the ID of a project, which a new file takes from its folder. The kernel counts the space and the files of
a project, also files without a name, and refuses more than the project's limits. Code in a user namespace can change
neither the project of a file nor the limits. The kernel's documents and ``quotactl(2)`` describe the calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import random
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..files.trees import FILE_BYTES
from .limits import DiskEnforcer, Limits

_GET_FACTS, _SET_FACTS = 0x801C581F, 0x401C5820  # FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR
_FACTS = struct.Struct("=IIIII8x")  # struct fsxattr: flags, extent size, extents, project, extent size for copies
_INHERITED = 0x200  # FS_XFLAG_PROJINHERIT: files made in the folder have its project

_QUOTACTL_FD = 443  # the number of this call on every machine
_PROJECT_QUOTA = 2
_GET_STATE, _GET_QUOTA, _SET_QUOTA = 0x5805, 0x800007, 0x800008
_STATE_BYTES = 80  # struct fs_quota_stat, whose flags come after a byte for the version
_ENFORCED = 1 << 5  # FS_QUOTA_PDQ_ENFD
_QUOTA = struct.Struct("=QQQQQQQQII")  # struct if_dqblk: limits and use of blocks, the same of inodes, times, valid
_LIMITS_VALID = 5  # QIF_LIMITS
_BLOCK = 1024
_PROJECTS = range(1 << 30, 1 << 31)  # administrators count from 1

logger = logging.getLogger(__name__)


class NoQuotasError(Exception):
    """The kernel does not enforce project quotas for the manager; the text says why."""


class ProjectQuotas(DiskEnforcer):
    """Limits for a sandbox's own files by a project for each sandbox."""

    name = "project quotas"
    summary = "limit of a sandbox's disk: by project quotas of the file system; volumes are measured"

    def limit(self, folder: Path, limits: Limits) -> None:
        with _opened(folder) as descriptor:
            project = _unused_project(descriptor)
            _set_limits(descriptor, project, limits.disk // _BLOCK, max(1, limits.disk // FILE_BYTES))
            _set_project(descriptor, project)

    def holds(self, folder: Path) -> bool:
        try:
            with _opened(folder) as descriptor:
                project = _project(descriptor)
                return project != 0 and _state(descriptor) and any(_limits(descriptor, project))
        except OSError:
            return False

    def release(self, folder: Path) -> None:
        try:
            with _opened(folder) as descriptor:
                if (project := _project(descriptor)) in _PROJECTS:
                    _set_limits(descriptor, project, 0, 0)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("the project quota of %s could not be removed: %s", folder, error.strerror)


def find_quotas(folder: Path | None) -> ProjectQuotas:
    """Return an enforcer for folders in ``folder``. Raises NoQuotasError if the kernel enforces no quotas there."""
    if folder is None or os.geteuid() != 0:
        raise NoQuotasError("only root can set project quotas, and only in a state folder")
    try:
        with _opened(folder) as descriptor:
            if not _state(descriptor):
                raise NoQuotasError(f"the file system of {folder} is mounted without project quotas (prjquota)")
        quotas = ProjectQuotas()
        with tempfile.TemporaryDirectory(prefix=".quota-", dir=folder) as trial:
            quotas.limit(Path(trial), Limits())
            held = quotas.holds(Path(trial))
            quotas.release(Path(trial))
    except OSError as error:
        raise NoQuotasError(f"the file system of {folder} has no project quotas: {error.strerror}") from error
    if not held:
        raise NoQuotasError(f"project quotas of the file system of {folder} do not stay as they are set")
    return quotas


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _project(descriptor: int) -> int:
    """Return the project that files in a folder have from their beginning; 0 if they have none."""
    flags, _, _, project, _ = _facts(descriptor)
    return project if flags & _INHERITED else 0


def _set_project(descriptor: int, project: int) -> None:
    flags, extent, extents, _, copies = _facts(descriptor)
    fcntl.ioctl(descriptor, _SET_FACTS, _FACTS.pack(flags | _INHERITED, extent, extents, project, copies))


def _facts(descriptor: int) -> tuple[int, int, int, int, int]:
    found: tuple[int, int, int, int, int] = _FACTS.unpack(fcntl.ioctl(descriptor, _GET_FACTS, bytes(_FACTS.size)))
    return found


def _unused_project(descriptor: int) -> int:
    while True:
        project = random.choice(_PROJECTS)  # noqa: S311 - no secret
        limits_and_use = _quota(descriptor, project)[:6]
        if not any(limits_and_use):
            return project


def _state(descriptor: int) -> bool:
    """Return whether the kernel enforces project quotas. Raises OSError if the file system has none at all."""
    state = ctypes.create_string_buffer(_STATE_BYTES)
    _quotactl(descriptor, _GET_STATE, 0, state)
    return bool(struct.unpack_from("=bxH", state)[1] & _ENFORCED)


def _limits(descriptor: int, project: int) -> tuple[int, int]:
    quota = _quota(descriptor, project)
    return quota[0], quota[3]


def _set_limits(descriptor: int, project: int, blocks: int, inodes: int) -> None:
    # The soft limits are 0, which means none.
    quota = _QUOTA.pack(blocks, 0, 0, inodes, 0, 0, 0, 0, _LIMITS_VALID, 0)
    _quotactl(descriptor, _SET_QUOTA, project, ctypes.create_string_buffer(quota, len(quota)))


def _quota(descriptor: int, project: int) -> tuple[int, ...]:
    quota = ctypes.create_string_buffer(_QUOTA.size)
    try:
        _quotactl(descriptor, _GET_QUOTA, project, quota)
    except FileNotFoundError:  # xfs knows nothing of the project yet
        return (0,) * 10
    return _QUOTA.unpack(quota.raw)


def _quotactl(descriptor: int, command: int, project: int, data: ctypes.Array[ctypes.c_char]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    kind = ctypes.c_uint(command << 8 | _PROJECT_QUOTA)
    arguments = (ctypes.c_uint(descriptor), kind, ctypes.c_uint(project), data)
    if libc.syscall(ctypes.c_long(_QUOTACTL_FD), *arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(
            number, "none are on, or Linux is older than 5.14" if number == errno.ENOSYS else os.strerror(number)
        )
