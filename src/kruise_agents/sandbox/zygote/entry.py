"""Functions by which a process of ours enters a sandbox, and then becomes or executes the program of the sandbox.

In place of the program, ``bwrap`` has started a placeholder, which only waits. The process enters the placeholder's
namespaces and takes over its capabilities, processors and resource limits, so this module need not know how ``bwrap``
sets up a sandbox. When the program has ended, the placeholder ends, and the sandbox with it.

The file tree of the sandbox may be full of traps. So the process reads no file of the tree, and imports no module,
until it has no rights any more but those of the sandbox's root, or of its only user. No process in the sandbox can see
it before that.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ...protocol.control import FORK_REQUEST_BYTES, ForkOrder, ForkRequest
from ..linux import capabilities
from ..linux.process import check, close_all_but, libc, make_dumpable
from ..linux.seccomp import filter_program
from ..linux.user_namespace import become_only_user, become_root_of_sandbox, map_ids

_POLL_SECONDS = 0.0005
_ON_THE_WAY_SECONDS = 20
_NAMESPACES = {
    "user": 0x10000000,
    "mnt": 0x00020000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
}
_NS_GET_USERNS = 0xB701
_MS_PRIVATE_EVERYWHERE = 0x40000 | 0x4000  # MS_PRIVATE and MS_REC
_NESTED_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_PR_SET_NO_NEW_PRIVS = 38
_INSTRUCTION_BYTES = 8
_RESOURCES = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]


def enter(connection: int) -> ForkOrder:
    """Read a :class:`ForkRequest` from a socket, enter the sandbox, and return the request's :class:`ForkOrder`.

    The calling process and its child end here. Only a grandchild, which is in the sandbox and without rights, returns.
    The grandchild has the program's descriptors and one more. The placeholder does not end as long as this extra
    descriptor is open.
    """
    # The alarm ends a fork that does not arrive, because the end of the sandbox would not end it. The process that
    # arrives is a child, and children inherit no alarm.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(_ON_THE_WAY_SECONDS)
    request, received = _receive(connection)
    own = request.own_count
    # Before anything else, so that errors from here on go to the sandbox's log.
    ready, program_pipe, *groups = _arrange(request.numbers, received[own:], received[:own])
    if os.read(ready, 1) == b"":
        sys.exit("the sandbox's first process did not start")
    os.close(ready)
    for members in groups:
        os.write(members, b"0")
        os.close(members)
    placeholder = _child_of(request.first_pid)
    handle = os.pidfd_open(placeholder)
    model = _Model.of(placeholder)
    order = request.order
    closed = _close_imports()
    entered = _enter_mounts(placeholder)
    _cross(handle, model.namespaces & ~entered)
    model.impose()
    between, helper = _leave_behind()
    with helper:
        if order.several_users:
            become_root_of_sandbox(Path(order.directory), helper)
        else:
            become_only_user()
    make_dumpable()
    # envd's metrics take the program's parent for the sandbox's first process. Nor may the sandbox see the helper.
    while os.getppid() == between:
        time.sleep(_POLL_SECONDS)
    # From here on, the file tree can do no more harm than any code in the sandbox.
    _open_imports(closed)
    os.chdir(order.directory)
    os.environ.clear()
    os.environ.update(order.environment)
    time.tzset()  # the sandbox may have another /etc
    os.set_inheritable(program_pipe, order.execute)
    return order


def execute(order: ForkOrder) -> NoReturn:
    """Execute the command of an order that this process has followed so far."""
    try:
        os.execve(order.command[0], list(order.command), dict(order.environment))  # noqa: S606 - without a shell on purpose
    except OSError as error:
        sys.exit(f"{order.command[0]}: {error.strerror}")


def _receive(connection: int) -> tuple[ForkRequest, list[int]]:
    with socket.socket(fileno=connection) as manager:
        data, descriptors, _, _ = socket.recv_fds(manager, FORK_REQUEST_BYTES, 64)
    return ForkRequest.from_json(data), descriptors


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()[0])


def _arrange(numbers: Sequence[int], received: Sequence[int], own: Sequence[int]) -> list[int]:
    """Move the descriptors ``received`` to ``numbers``, and ``own`` to higher numbers. Close all other descriptors.

    Return the new numbers of ``own``. Programs that are executed later do not inherit these descriptors.
    """
    above = max(numbers) + 1
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above) for descriptor in (*own, *received)]
    for number, descriptor in zip(numbers, moved[len(own) :], strict=True):
        os.dup2(descriptor, number, inheritable=True)
    kept = moved[: len(own)]
    close_all_but({*numbers, *kept})
    return kept


@dataclass(frozen=True, slots=True)
class _Model:
    """The rights and limits that ``bwrap`` has given to the placeholder."""

    namespaces: int
    """Flags of the namespaces in which the placeholder is and this process is not."""
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    processors: set[int]
    limits: dict[int, tuple[int, int]]

    @classmethod
    def of(cls, pid: int) -> _Model:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        sets = {name: int(bits, 16) for name, bits in re.findall(r"^Cap(\w+):\s+([0-9a-f]+)$", status, re.MULTILINE)}
        if _label("self") != _label(str(pid)):
            sys.exit(f"a security module holds it ({_label(str(pid))}), and not a fork ({_label('self')})")
        return cls(
            namespaces=sum(flag for name, flag in _NAMESPACES.items() if _differs(pid, name)),
            inheritable=sets["Inh"],
            permitted=sets["Prm"],
            effective=sets["Eff"],
            bounding=sets["Bnd"],
            ambient=sets["Amb"],
            processors=os.sched_getaffinity(pid),
            limits={kind: resource.prlimit(pid, kind) for kind in _RESOURCES},
        )

    def impose(self) -> None:
        """Give this process, and all that it starts, these rights and limits and the filter for system calls."""
        os.sched_setaffinity(0, self.processors)
        for kind, limit in self.limits.items():
            if resource.getrlimit(kind) != limit:
                resource.setrlimit(kind, limit)
        capabilities.bound(self.bounding)
        capabilities.hold(self.effective, self.permitted, self.inheritable)
        capabilities.hand_on(self.ambient)
        check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
        _install_filter()


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _install_filter() -> None:
    code = filter_program()
    if code:
        program = _Program(len(code) // _INSTRUCTION_BYTES, code)
        check(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "the filter")


def _enter_mounts(pid: int) -> int:
    """Enter a process's mounts, detach them from the host, and allow only one user namespace inside the process's own.

    ``bwrap`` lets later mounts of the host appear in the sandbox. These would be writable, even below read-only mounts.
    Return the flags of the namespaces that this process has entered.
    """
    mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    # Only the rights of this user namespace count for the mounts. The program may be in a namespace inside of it.
    owner = fcntl.ioctl(mounts, _NS_GET_USERNS)
    is_own = os.path.samestat(os.fstat(owner), os.stat(f"/proc/{pid}/ns/user"))  # noqa: PTH116 - a magic link
    check(libc.setns(owner, _NAMESPACES["user"]), "entering the sandbox's user namespace")
    check(libc.setns(mounts, _NAMESPACES["mnt"]), "entering the sandbox's mounts")
    check(libc.mount(None, b"/", None, _MS_PRIVATE_EVERYWHERE, None), "making the sandbox's mounts private")
    # Namespaces inside of others count too, so programs in the sandbox can make none.
    _NESTED_NAMESPACES.write_text("1" if is_own else "2", encoding="utf-8")
    os.close(owner)
    os.close(mounts)
    return _NAMESPACES["mnt"] | (_NAMESPACES["user"] if is_own else 0)


def _cross(handle: int, namespaces: int) -> None:
    check(libc.setns(handle, namespaces), "entering the sandbox")
    os.close(handle)
    os.chdir("/")


def _close_imports() -> list[Any]:
    """Keep Python from reading files, for imports and for reports of errors. Return the finders of imports."""
    finders = sys.meta_path[:]
    sys.meta_path.clear()
    sys.excepthook = lambda kind, error, _: print(f"{kind.__name__}: {error}", file=sys.stderr)
    return finders


def _open_imports(finders: list[Any]) -> None:
    sys.meta_path[:] = finders
    sys.excepthook = sys.__excepthook__


def _leave_behind() -> tuple[int, socket.socket]:
    """Fork twice. In the grandchild, return the pid of the process between, and a socket that leads to this process.

    A process that enters a pid namespace puts only its new children there, so the first fork is in the namespace. The
    second fork is adopted by the first process of the sandbox when the process between has ended. Before that, the
    process between writes ID maps for the grandchild (see :func:`map_ids`).
    """
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    between = os.getpid()
    requests, helper = socket.socketpair()
    grandchild = os.fork()
    if grandchild:
        helper.close()
        os._exit(map_ids(grandchild, requests))
    requests.close()
    os.setsid()
    return between, helper


def _differs(pid: int, name: str) -> bool:
    return Path(f"/proc/{pid}/ns/{name}").readlink() != Path(f"/proc/self/ns/{name}").readlink()


def _label(pid: str) -> str:
    """Return the label that a security module (AppArmor, SELinux) gives a process; empty if no label can be read."""
    try:
        return Path(f"/proc/{pid}/attr/current").read_text(encoding="utf-8", errors="replace").strip("\0\n")
    except OSError:
        return ""
