"""The ``process`` runtime: sandboxes are ordinary processes of this user, with no isolation at all.

For machines that forbid namespaces. It must be asked for by name.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from typing import IO

from .base import Launched, Runtime
from .layout import Layout
from .limits import Enforcer, Limits, ResourceLimits, common_arguments
from .program import program_argv


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
        """See :meth:`.base.Runtime.launch`; the program is its own init process."""
        process = subprocess.Popen(
            [*program_argv(str(layout.home)), "--own-init", *common_arguments(limits), *arguments],
            env={"LANG": "C.UTF-8", "TMPDIR": str(layout.tmp)},
            cwd=layout.home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=descriptors,
            start_new_session=True,
        )
        return Launched(process, None)
