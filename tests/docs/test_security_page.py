"""The tests that the page about security names exist."""

from __future__ import annotations

import re
from collections import defaultdict

from support.documents import ROOT

PAGE = ROOT / "docs" / "explanation" / "security.md"


def test_every_test_that_the_page_names_exists() -> None:
    text = PAGE.read_text()
    files = set(re.findall(r"`(?:tests/[\w/]+/)?(test_\w+)\.py`", text))
    sources: defaultdict[str, str] = defaultdict(str)
    for path in (ROOT / "tests").rglob("test_*.py"):
        sources[path.stem] += path.read_text()
    assert files <= set(sources)
    names = set(re.findall(r"`(test_\w+)`", text))
    assert len(names) > 20
    defined = {name for stem in files for name in re.findall(r"def (test_\w+)", sources[stem])}
    assert names <= defined, names - defined
