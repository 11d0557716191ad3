"""Limits by control groups (cgroup v2), where a part of their tree has been delegated to the manager.

Examples are ``systemd-run --user --scope -p Delegate=yes``, units with ``Delegate=yes``, and containers that own their
tree. The rules come from the kernel's ``cgroup-v2.rst``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ....protocol.control import ProgramLimits
from ..pause.freezer import GROUP_PREFIX
from .limits import Enforcer, Limits, common_limits

_CONTROLLERS = ("cpu", "memory", "pids")
_OWN = "manager"  # the manager's own group: a group with controlled children may have no processes
_PERIOD = 100_000
_MOUNT = re.compile(r"^\S+ \S+ \S+ (\S+) (\S+) .* - cgroup2 ", re.MULTILINE)
# The shell joins the group (`echo` is built in), then becomes the command.
_ENTER = ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"')

logger = logging.getLogger(__name__)


class NotDelegatedError(Exception):
    """The manager may not make control groups with limits; the text says why."""


class ControlGroups(Enforcer):
    """A control group for each sandbox, in the folder of the group that was delegated to the manager."""

    name = "cgroup v2"
    summary = "limits of a sandbox: by control groups (cgroup v2)"
    holds_memory = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def program_limits(self, limits: Limits) -> ProgramLimits:
        return common_limits(limits)

    @contextlib.contextmanager
    def limited(self, name: str, limits: Limits) -> Iterator[Sequence[str]]:
        group = self._folder / f"{GROUP_PREFIX}{name}"
        group.mkdir()
        try:
            for file, value in _values(limits).items():
                _write(group / file, value)
            # The file does not exist on machines without swap.
            if (group / "memory.swap.max").exists():
                _write(group / "memory.swap.max", "0")
        except OSError:
            group.rmdir()
            raise
        yield (*_ENTER, str(group / "cgroup.procs"))

    def release(self, name: str) -> None:
        group = self._folder / f"{GROUP_PREFIX}{name}"
        with contextlib.suppress(FileNotFoundError):
            with contextlib.suppress(OSError):  # before Linux 5.14, or no process is left
                _write(group / "cgroup.kill", "1")
            try:
                group.rmdir()
            except FileNotFoundError:
                raise
            except OSError as error:
                logger.warning("the control group %s could not be removed: %s", group, error.strerror)


def find_groups(proc: Path = Path("/proc/self")) -> ControlGroups:
    """Prepare the manager's own group for children with limits, or raise a NotDelegatedError."""
    folder = _own_group(proc)
    if folder.name == _OWN:  # an earlier manager moved itself there and started this process
        folder = folder.parent
    missing = [name for name in _CONTROLLERS if name not in _words(folder / "cgroup.controllers")]
    if missing:
        raise NotDelegatedError(f"the control group {folder} does not have {', '.join(missing)}")
    written = (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control")
    if not all(os.access(path, os.W_OK) for path in written):
        raise NotDelegatedError(f"the control group {folder} was not given to this user")
    _make_room(folder)
    return ControlGroups(folder)


def _own_group(proc: Path) -> Path:
    mounts = _MOUNT.search((proc / "mountinfo").read_text(encoding="utf-8"))
    entry = re.search(r"^0::(/.*)$", (proc / "cgroup").read_text(encoding="utf-8"), re.MULTILINE)
    if mounts is None or entry is None:
        raise NotDelegatedError("this machine has no control groups of version 2")
    root, place = mounts.groups()
    own = entry[1]
    if root != "/" and (own == root or own.startswith(f"{root}/")):
        own = own[len(root) :]
    return Path(place) / own.lstrip("/")


def _make_room(folder: Path) -> None:
    # Moves the manager into its own group and enables the controllers for the groups beside it.
    if folder == folder.parent or not (folder / "cgroup.type").exists():
        raise NotDelegatedError(f"{folder} is the root of all control groups; run the manager in one of its own")
    others = set(_words(folder / "cgroup.procs")) - {str(os.getpid())}
    if others:
        raise NotDelegatedError(
            f"the control group {folder} has other processes beside the manager; give it one of its own: "
            "`systemd-run --user --scope -p Delegate=yes kruise-agents serve`"
        )
    try:
        own = folder / _OWN
        own.mkdir(exist_ok=True)
        _write(own / "cgroup.procs", str(os.getpid()))
        _write(folder / "cgroup.subtree_control", " ".join(f"+{name}" for name in _CONTROLLERS))
    except OSError as error:
        raise NotDelegatedError(f"the control group {folder} cannot be divided: {error.strerror}") from error


def _values(limits: Limits) -> dict[str, str]:
    return {
        "memory.max": str(limits.memory),
        # Kill one process, not all: the sandbox's own program should survive.
        "memory.oom.group": "0",
        "pids.max": str(limits.processes),
        "cpu.max": f"{limits.cpus * _PERIOD} {_PERIOD}",
    }


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except OSError as error:
        raise NotDelegatedError(f"{file} cannot be read: {error.strerror}") from error


def _write(file: Path, value: str) -> None:
    # Not Path.write_text: it would create a file that the kernel does not have, and the kernel wants a single write.
    descriptor = os.open(file, os.O_WRONLY)
    try:
        os.write(descriptor, value.encode("ascii"))
    finally:
        os.close(descriptor)
