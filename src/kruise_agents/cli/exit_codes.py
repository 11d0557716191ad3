"""Exit codes of the commands, for scripts."""

from __future__ import annotations

from ..embedded import NO_NAMESPACES

EXIT_USAGE = 2
"""An argument, option, variable or file cannot be used, or an extra is missing. Nothing was started.
For `doctor`: something is broken."""
EXIT_RUNTIME = NO_NAMESPACES
"""Sandboxes cannot be isolated on this machine."""
EXIT_INCOMPLETE = 4
"""A backup or restore is done but for the files that it names on standard error."""
