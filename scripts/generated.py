"""Generated files: writing them, and checking that they are up to date."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def write(texts: Mapping[Path, str]) -> None:
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")


def stale(texts: Mapping[Path, str]) -> list[str]:
    """Return the files that are missing or have another text."""
    return [
        str(path.relative_to(ROOT))
        for path, text in texts.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(texts: Mapping[Path, str], source: str, command: str) -> int:
    """Write the files or, with ``--check``, print the files that are not up to date, and return the exit code."""
    if "--check" not in sys.argv[1:]:
        write(texts)
        return 0
    names = stale(texts)
    for name in names:
        print(f"{name} is not what {source}; run `{command}`")
    return 1 if names else 0
