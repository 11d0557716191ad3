"""The Bash kernel of the package ``bash_kernel``, changed to leave line ends as programs wrote them."""

from __future__ import annotations

from bash_kernel.kernel import BashKernel


class LineKernel(BashKernel):  # type: ignore[misc]  # the package has no types
    """A Bash kernel that adds no carriage returns to output.

    ``bash_kernel`` (0.10) leaves the carriage return of a line end in the output where a read ends right after it.
    """

    def _start_bash(self) -> None:
        super()._start_bash()
        self.bashwrapper.run_command("stty -onlcr")
