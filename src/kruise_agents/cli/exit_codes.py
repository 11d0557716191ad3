"""Exit codes of the commands, for scripts."""

from __future__ import annotations

EXIT_USAGE = 2
"""A setting cannot work, and nothing was started. click uses this code too."""
EXIT_RUNTIME = 3
"""Sandboxes cannot be isolated on this machine as asked."""
