"""The ``process`` runtime: sandboxes are ordinary processes of the manager's user, without isolation.

This runtime is for machines that forbid namespaces, and is used only if the settings name it.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
from dataclasses import replace

from ...protocol.control import program_command
from .base import Runtime
from .files.layout import SYSTEM_PATH
from .launch import Launch, Launched
from .limits.limits import DiskEnforcer, Enforcer, MeasuredDisk, ProcessLimits, ResourceLimits, reported_limits
from .rootfs.commands import Commands
from .rootfs.python import program_arguments

logger = logging.getLogger(__name__)


class ProcessRuntime(Runtime):
    """The runtime whose sandboxes share the user, the files and the network of the manager."""

    name = "process"
    summary = (
        "runtime process: NO isolation. Code in a sandbox can do everything that you can do on this machine; "
        "all sandboxes share its ports and files"
    )
    end_signal = signal.SIGTERM  # on SIGTERM, sandbox/linux/pid1.py ends all processes of its sandbox
    one_user_because = "the process runtime runs everything as the user who runs the manager"
    enforcer: Enforcer = ResourceLimits("the process runtime measures only")
    disk: DiskEnforcer = MeasuredDisk("the process runtime measures only")

    def __init__(self) -> None:
        self._commands = Commands()

    def check(self) -> None:
        pass  # processes always work

    def launch(self, launch: Launch) -> Launched:
        home = launch.layout.home
        try:
            self._commands.add_to(home / ".local" / "bin")
        except OSError as error:  # code of the sandbox may have removed or closed the folder
            logger.info("the commands of the manager's packages are missing in a sandbox: %s", error)
        arguments = program_arguments(home, SYSTEM_PATH, launch.descriptors, reported_limits(launch.limits))
        process = subprocess.Popen(
            program_command(sys.executable, replace(arguments, own_init=True)),
            env={"LANG": "C.UTF-8", "TMPDIR": str(launch.layout.tmp)},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=launch.output,
            stderr=launch.output,
            pass_fds=launch.descriptors.numbers(),
            start_new_session=True,
        )
        with contextlib.suppress(ProcessLookupError):  # it has ended already, and the log says why
            ProcessLimits(file=launch.limits.disk).impose(process.pid)
        return Launched(process, None)
