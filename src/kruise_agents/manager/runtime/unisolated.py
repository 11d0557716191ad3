"""The ``process`` runtime: sandboxes are ordinary processes of this user, with no isolation at all.

For machines that forbid namespaces. It must be asked for by name.
"""

from __future__ import annotations

import signal
import subprocess

from .base import Runtime
from .launch import Launch, Launched
from .limits.limits import Enforcer, ResourceLimits, common_arguments
from .rootfs.python import program_argv


class ProcessRuntime(Runtime):
    """Starts the sandbox's program as it is: same user, same files, same network as the manager."""

    name = "process"
    summary = (
        "runtime process: NO isolation. Code in a sandbox can do everything that you can do on this machine; "
        "all sandboxes share its ports and files"
    )
    end_signal = signal.SIGTERM  # sandbox/init.py does the rest
    one_user_because = "the process runtime runs everything as the user who runs the manager"

    enforcer: Enforcer = ResourceLimits("the process runtime measures only")

    def check(self) -> None:
        """Processes always work."""

    def launch(self, what: Launch) -> Launched:
        """See :meth:`.base.Runtime.launch`; the program is its own init process."""
        home = what.layout.home
        process = subprocess.Popen(
            [*program_argv(str(home)), "--own-init", *common_arguments(what.limits), *what.arguments],
            env={"LANG": "C.UTF-8", "TMPDIR": str(what.layout.tmp)},
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=what.output,
            stderr=what.output,
            pass_fds=what.descriptors,
            start_new_session=True,
        )
        return Launched(process, None)
