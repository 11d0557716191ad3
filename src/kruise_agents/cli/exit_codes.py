"""Exit codes of the commands, for scripts."""

from __future__ import annotations

EXIT_USAGE = 2
"""An argument, option or variable cannot work. Nothing was started."""
EXIT_RUNTIME = 3
"""Sandboxes cannot be isolated on this machine as asked."""
