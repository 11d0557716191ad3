"""The ``process`` runtime: sandboxes are ordinary processes of this user, with no isolation at all.

For machines that forbid namespaces. It must be asked for by name.
"""

from __future__ import annotations

from .base import LaunchPlan, Layout, Runtime
from .program import program_argv


class ProcessRuntime(Runtime):
    """Starts the sandbox's program as it is: same user, same files, same network as the manager."""

    name = "process"
    summary = (
        "runtime process: NO isolation. Code in a sandbox can do everything that you can do on this machine; "
        "all sandboxes share its ports and files"
    )

    def check(self) -> None:
        """Processes always work."""

    def plan(self, layout: Layout, info_fd: int) -> LaunchPlan:
        """See :meth:`.base.Runtime.plan`; the program is its own init process."""
        argv = [*program_argv(str(layout.home)), "--own-init"]
        return LaunchPlan(argv, {"LANG": "C.UTF-8", "TMPDIR": str(layout.tmp)}, cwd=layout.home)
