"""The list of generated pages."""

from __future__ import annotations

from pathlib import Path

from generated import ROOT

from . import command_line, environment, rest_api, troubleshooting

PAGES = {
    "reference/command-line.md": command_line.page,
    "reference/environment.md": environment.page,
    "reference/rest-api.md": rest_api.page,
    "guides/troubleshooting.md": troubleshooting.page,
}


def texts() -> dict[Path, str]:
    """Return the text of every page."""
    return {ROOT / "docs" / name: page() for name, page in PAGES.items()}
