"""The kernel for Bash: that of the package ``bash_kernel``, whose lines end as programs wrote them."""

from __future__ import annotations

from bash_kernel.kernel import BashKernel

__all__ = ["LineKernel"]


class LineKernel(BashKernel):  # type: ignore[misc]  # the package has no types
    """A shell whose terminal adds no carriage returns.

    The package takes them away again, but not where one is the last byte that it read at a time (0.10).
    """

    def _start_bash(self) -> None:
        super()._start_bash()
        self.bashwrapper.run_command("stty -onlcr")
