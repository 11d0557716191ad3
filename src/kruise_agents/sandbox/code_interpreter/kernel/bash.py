"""The kernel for Bash, of the package ``bash_kernel``, with line ends left as programs wrote them."""

from __future__ import annotations

from bash_kernel.kernel import BashKernel


class LineKernel(BashKernel):  # type: ignore[misc]  # the package has no types
    """A Bash kernel that adds no carriage returns. The package (0.10) leaves a carriage return at the end of a read."""

    def _start_bash(self) -> None:
        super()._start_bash()
        self.bashwrapper.run_command("stty -onlcr")
