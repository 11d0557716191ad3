"""Pages and pictures from the figures in docs/benchmarks/*.json. `make pictures` writes them anew.

With ``--check`` nothing is written; the exit code says whether each file is what the figures say.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks import comparison, pages, records  # noqa: E402 - the path is set above

NAMES = ("fleet", "sandbox", "patch", "e2b-servers")


def files() -> dict[Path, str]:
    """Return the text of every file that is written from figures."""
    figures = {name: records.read(name) for name in NAMES}
    explanation = ROOT / "docs" / "explanation"
    texts = {records.FOLDER / name: text for name, text in pages.pages(figures).items()}
    texts |= {explanation / name: text for name, text in comparison.pictures(figures).items()}
    return texts | {explanation / "performance.md": comparison.page(figures)}


def write() -> dict[str, str]:
    """Write all files, and return their texts by name."""
    texts = files()
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return {path.name: text for path, text in texts.items()}


def stale() -> list[str]:
    """Return the files that differ from what the figures say."""
    return [
        str(path.relative_to(ROOT))
        for path, text in files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main() -> int:
    if "--check" not in sys.argv[1:]:
        write()
        return 0
    names = stale()
    for name in names:
        print(f"{name} is not what the figures say; run `make pictures`")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
