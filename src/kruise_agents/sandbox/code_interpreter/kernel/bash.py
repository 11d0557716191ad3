"""The Bash kernel of the package ``bash_kernel``, without the carriage returns that its terminal would add."""

from __future__ import annotations

from bash_kernel.kernel import BashKernel


class LineKernel(BashKernel):  # type: ignore[misc]  # the package has no types
    """A Bash kernel whose terminal adds no carriage return to a line feed.

    ``bash_kernel`` (0.10) itself turns CR LF into LF, but not where a read ends between the CR and the LF.
    """

    def _start_bash(self) -> None:
        super()._start_bash()
        self.bashwrapper.run_command("stty -onlcr")
