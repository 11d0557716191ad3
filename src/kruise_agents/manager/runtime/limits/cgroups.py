"""Limits by control groups (cgroup v2), for a manager to which a part of the tree of groups is delegated.

Ways to delegate are ``systemd-run --user --scope -p Delegate=yes``, a unit with ``Delegate=yes``, and a container that
owns its tree of groups. The kernel's document ``cgroup-v2.rst`` describes delegation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..pause.freezer import GROUP_PREFIX
from .limits import Enforcer, Limits

_CONTROLLERS = ("cpu", "memory", "pids")
_OWN = "manager"  # the manager's own group: a group whose children have limits may contain no process itself
_PERIOD = 100_000  # microseconds
_MOUNT = re.compile(r"^\S+ \S+ \S+ (\S+) (\S+) .* - cgroup2 ", re.MULTILINE)
# The shell itself joins the group, because `echo` is built in. Then the shell becomes the command.
_ENTER = ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"')

logger = logging.getLogger(__name__)


class NotDelegatedError(Exception):
    """The manager may not make control groups with limits; the text says why."""


class ControlGroups(Enforcer):
    """Limits by one control group for each sandbox, made in the group that was delegated to the manager."""

    name = "cgroup v2"
    summary = "limits of a sandbox: by control groups (cgroup v2)"
    holds_memory = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def limited(self, name: str, limits: Limits) -> Iterator[Sequence[str]]:
        group = self._folder / f"{GROUP_PREFIX}{name}"
        group.mkdir()
        try:
            for file, value in _values(limits).items():
                (group / file).write_text(value, encoding="ascii")
            # A kernel that does not count swap has no such file.
            if (group / "memory.swap.max").exists():
                (group / "memory.swap.max").write_text("0", encoding="ascii")
        except OSError:
            group.rmdir()
            raise
        yield (*_ENTER, str(group / "cgroup.procs"))

    def release(self, name: str) -> None:
        group = self._folder / f"{GROUP_PREFIX}{name}"
        with contextlib.suppress(OSError):  # Linux before 5.14 has no such file, and the group may be gone
            (group / "cgroup.kill").write_text("1", encoding="ascii")
        try:
            group.rmdir()
        except FileNotFoundError:
            pass  # released before
        except OSError as error:
            logger.warning("the control group %s could not be removed: %s", group, error.strerror)


def find_groups(proc: Path = Path("/proc/self")) -> ControlGroups:
    """Move the manager into its own control group, and return an enforcer that makes groups beside that group.

    Raises NotDelegatedError if the manager may not do that.
    """
    folder = _own_group(proc)
    if folder.name == _OWN:  # an earlier manager moved this process, or its parent, there
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
    # Moves the manager into a group of its own, and enables the controllers for the groups beside that group.
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
        (own / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
        enabled = " ".join(f"+{name}" for name in _CONTROLLERS)
        (folder / "cgroup.subtree_control").write_text(enabled, encoding="ascii")
    except OSError as error:
        raise NotDelegatedError(f"the control group {folder} cannot be divided: {error.strerror}") from error


def _values(limits: Limits) -> dict[str, str]:
    return {
        "memory.max": str(limits.memory),
        # When memory runs out, the kernel kills one process and not all: the sandbox's own program should survive.
        "memory.oom.group": "0",
        "pids.max": str(limits.processes),
        "cpu.max": f"{limits.cpus * _PERIOD} {_PERIOD}",
    }


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except OSError as error:
        raise NotDelegatedError(f"{file} cannot be read: {error.strerror}") from error
