"""The guide for trouble: a template, and the paragraph of each check of the doctor."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from kruise_agents.doctor.command import CHECKS

from .markdown import NOTE, code, filled, wrapped


def page() -> str:
    """Return the page."""
    parts = []
    for group, checks in groupby(CHECKS.values(), key=lambda check: check.group):
        parts.append(f"## Checks of {group}\n")
        for check in checks:
            parts += [f"### {code(check.id)}\n", f"*{check.title[:1].upper()}{check.title[1:]}.*\n"]
            parts.append(f"{wrapped(check.explanation)}\n")
    marks = "<!-- uses: manager -->\n<!-- needs: namespaces -->\n"
    text = filled(Path(__file__).with_suffix(".md"), {"checks": "\n".join(parts)})
    return f"{marks}{NOTE}{text}"
