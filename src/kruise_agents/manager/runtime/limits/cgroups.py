"""Limits by control groups, version 2, where a part of their tree has been given to the manager.

That is the case below ``systemd-run --user --scope -p Delegate=yes``, in a unit with ``Delegate=yes``, and in
containers that own their tree. Source of the rules: the kernel's ``cgroup-v2.rst``.
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
_OWN = "manager"
"""The group into which the manager itself goes: a group with controlled children may have no processes."""
_PERIOD = 100_000
_MOUNT = re.compile(r"^\S+ \S+ \S+ (\S+) (\S+) .* - cgroup2 ", re.MULTILINE)
# `echo` is a part of the shell; the shell itself is what goes into the group.
_ENTER = ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"')

logger = logging.getLogger(__name__)


class NotDelegatedError(Exception):
    """This process may not make control groups with limits; the text says why."""


class ControlGroups(Enforcer):
    """A group for each sandbox below the manager's own.

    Parameters:
        folder: the group that was given to the manager, prepared by :func:`find_groups`.
    """

    name = "cgroup v2"
    summary = "limits of a sandbox: by control groups (cgroup v2)"
    holds_memory = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def program_limits(self, limits: Limits) -> ProgramLimits:
        return common_limits(limits)

    @contextlib.contextmanager
    def limited(self, name: str, limits: Limits) -> Iterator[Sequence[str]]:
        """See :meth:`.limits.Enforcer.limited`."""
        group = self._folder / f"{GROUP_PREFIX}{name}"
        group.mkdir()
        try:
            for file, value in _values(limits).items():
                _write(group / file, value)
            # Machines without swap do not have it.
            if (group / "memory.swap.max").exists():
                _write(group / "memory.swap.max", "0")
        except OSError:
            group.rmdir()
            raise
        yield (*_ENTER, str(group / "cgroup.procs"))

    def release(self, name: str) -> None:
        """See :meth:`.limits.Enforcer.release`."""
        group = self._folder / f"{GROUP_PREFIX}{name}"
        with contextlib.suppress(FileNotFoundError):
            with contextlib.suppress(OSError):  # before Linux 5.14, or nothing is left to kill
                _write(group / "cgroup.kill", "1")
            try:
                group.rmdir()
            except FileNotFoundError:
                raise
            except OSError as error:
                logger.warning("the control group %s could not be removed: %s", group, error.strerror)


def find_groups(proc: Path = Path("/proc/self")) -> ControlGroups:
    """The manager's own group, made ready for children with limits.

    Parameters:
        proc: where the facts about this process stand.

    Raises:
        NotDelegatedError: it has none that it may divide.
    """
    folder = _own_group(proc)
    if folder.name == _OWN:  # a manager that was here before had moved itself, and this process was started by it
        folder = folder.parent
    missing = [one for one in _CONTROLLERS if one not in _words(folder / "cgroup.controllers")]
    if missing:
        raise NotDelegatedError(f"the control group {folder} does not have {', '.join(missing)}")
    if not all(
        os.access(path, os.W_OK) for path in (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control")
    ):
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
    """Move the manager into a group of its own and hand the controllers on to its neighbours."""
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
        _write(folder / "cgroup.subtree_control", " ".join(f"+{one}" for one in _CONTROLLERS))
    except OSError as error:
        raise NotDelegatedError(f"the control group {folder} cannot be divided: {error.strerror}") from error


def _values(limits: Limits) -> dict[str, str]:
    return {
        "memory.max": str(limits.memory),
        # One process goes, not all: the sandbox's own program should outlive what is run in it.
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
    # Not Path.write_text: these files must not be made where the kernel has none, and take one write.
    descriptor = os.open(file, os.O_WRONLY)
    try:
        os.write(descriptor, value.encode("ascii"))
    finally:
        os.close(descriptor)
