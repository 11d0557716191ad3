"""The list of generated pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import command_line, environment, rest_api

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "command-line.md": command_line.page,
    "environment.md": environment.page,
    "rest-api.md": rest_api.page,
}


def write_pages() -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


def stale_pages() -> list[str]:
    """Return the names of pages that differ from what the code says."""
    return [name for name, page in PAGES.items() if _text(FOLDER / name) != page()]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
