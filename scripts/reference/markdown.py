"""Markdown for the pages: tables, paragraphs, templates and code."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

WIDTH = 120
NOTE = "<!-- Written by `make reference` from the code. Change the code or scripts/reference, not this page. -->\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table without the columns that are empty in every row. A cell may contain ``|``."""
    filled_in = list(rows)
    kept = [column for column in range(len(head)) if not filled_in or any(row[column] for row in filled_in)]
    lines = [head, ["---"] * len(head), *filled_in]
    return "".join(f"| {' | '.join(_cell(line[column]) for column in kept)} |\n" for line in lines)


def wrapped(text: str, indent: str = "") -> str:
    """Return a paragraph in lines of at most :data:`WIDTH` characters, as an item of a list if ``indent`` is given."""
    return textwrap.fill(
        " ".join(text.split()),
        WIDTH,
        initial_indent=indent and f"{indent[:-2]}- ",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def filled(template: Path, parts: Mapping[str, str]) -> str:
    """Return the text of a file with each ``{{name}}`` replaced by the part of that name."""
    text = template.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"{{{{{name}}}}}", part.rstrip("\n"))
    return text


def code(text: str) -> str:
    """Return text marked as code within a line."""
    return f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")
