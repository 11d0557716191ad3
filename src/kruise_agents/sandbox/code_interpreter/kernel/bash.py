"""The Bash kernel of the package ``bash_kernel``, changed to leave line ends as programs wrote them."""

from __future__ import annotations

from bash_kernel.kernel import BashKernel


class LineKernel(BashKernel):  # type: ignore[misc]  # the package has no types
    """A Bash kernel that adds no carriage returns to output.

    The package (0.10) leaves a carriage return in the output where a read ends inside of a line end.
    """

    def _start_bash(self) -> None:
        super()._start_bash()
        self.bashwrapper.run_command("stty -onlcr")
