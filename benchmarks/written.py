"""`make pictures`: writes the pages and pictures from the figures in docs/benchmarks/*.json.

With ``--check`` nothing is written; the exit code says whether each file is what the figures say.
"""

from __future__ import annotations

import sys
from pathlib import Path

import generated
from benchmarks import comparison, pages, records

NAMES = ("fleet", "sandbox", "patch", "proxy", "e2b-servers")


def files() -> dict[Path, str]:
    """Return the text of every file that is written from figures."""
    figures = {name: records.read(name) for name in NAMES}
    explanation = records.ROOT / "docs" / "explanation"
    texts = {records.FOLDER / name: text for name, text in pages.pages(figures).items()}
    texts |= {explanation / name: text for name, text in comparison.pictures(figures).items()}
    return texts | {explanation / "performance.md": comparison.page(figures)}


def write() -> dict[str, str]:
    """Write all files, and return their texts by name."""
    texts = files()
    generated.write(texts)
    return {path.name: text for path, text in texts.items()}


if __name__ == "__main__":
    sys.exit(generated.main(files(), "the figures say", "make pictures"))
