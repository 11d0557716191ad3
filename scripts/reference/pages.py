"""The list of generated pages."""

from __future__ import annotations

from pathlib import Path

from generated import ROOT

from . import command_line, environment, rest_api

PAGES = {
    "command-line.md": command_line.page,
    "environment.md": environment.page,
    "rest-api.md": rest_api.page,
}


def texts() -> dict[Path, str]:
    """Return the text of every page."""
    return {ROOT / "docs" / "reference" / name: page() for name, page in PAGES.items()}
