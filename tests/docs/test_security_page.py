"""The tables of promises and of faults: each promise and each fault has tests, and the tests exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.documents import ROOT

PAGE = ROOT / "docs" / "explanation" / "security.md"
RELIABILITY = ROOT / "docs" / "reference" / "reliability.md"
TABLE = "\n## Promises and their tests\n"
NO_PROMISES = ("What it does not hold back", "What the limits do not cover", "The runtime `process`")

_NAME = re.compile(r"`((?:tests/[\w/]+/)?test_\w+(?:\.py)?)`")


def wrong_tests(cell: str) -> list[str]:
    """Return what is wrong with the tests of a cell, such as "`test_a.py`: `test_b`; `test_c.py`, all tests"."""
    wrong = [] if _NAME.search(cell) else [f"no test: {cell}"]
    source = ""
    for name in _NAME.findall(cell):
        if name.endswith(".py"):
            files = [ROOT / name] if "/" in name else list((ROOT / "tests" / "manager").rglob(name))
            found = [path for path in files if path.is_file()]
            wrong += [] if len(found) == 1 else [f"{len(found)} files: {name}"]
            source = "".join(map(Path.read_text, found))
        elif not re.search(rf"^ *(?:async )?def {name}\(", source, re.MULTILINE):
            wrong.append(f"no such test: {name}")
    return wrong


def rows(tables: str) -> dict[str, str]:
    """Return the last cells of the rows of tables by the first cells."""
    lines = re.findall(r"^\| .+ \|$(?!\n\|-)", tables, re.MULTILINE)
    cells = [line.strip("|").split("|") for line in lines]
    return {row[0].strip(): row[-1] for row in cells}


def promises(text: str) -> list[str]:
    """Return the names in bold letters at the beginnings of paragraphs and list items, where promises are made."""
    sections = re.split(r"^##+ ", text, flags=re.MULTILINE)
    made = "".join("\n\n" + section for section in sections[1:] if not section.startswith(NO_PROMISES))
    return [name.rstrip(".") for name in re.findall(r"(?:\n\n|\n- )\*\*([^*]+)\*\*", made)]


def test_each_promise_has_tests_that_exist() -> None:
    text, table = PAGE.read_text().split(TABLE)
    tests, made = rows(table), promises(text)
    assert len(made) > 40
    assert len(set(made)) == len(made)
    assert set(made) <= set(tests), "a promise without a test"
    assert all(re.search(rf"\*\*{re.escape(name)}\.?\*\*", text) for name in tests), "a test without a promise"
    assert [wrong for cell in tests.values() for wrong in wrong_tests(cell)] == []
    assert not re.search(r"`(tests/|test_)", text), "tests are named in the table only"


@pytest.mark.parametrize(
    ("cell", "wrong"),
    [
        ("none yet", ["no test: none yet"]),
        ("`test_nowhere.py`, all tests", ["0 files: test_nowhere.py"]),
        ("`tests/manager/test_nowhere.py`", ["0 files: tests/manager/test_nowhere.py"]),
        ("`test_mounts.py`: `test_x`", ["no such test: test_x"]),
        ("`test_mounts.py`: `test_mounts_of_the_host_stay`; `test_zygote.py`", []),
        ("`test_zygote.py`: `test_mounts_of_the_host_stay`", ["no such test: test_mounts_of_the_host_stay"]),
    ],
)
def test_what_is_wrong_is_found(cell: str, wrong: list[str]) -> None:
    assert wrong_tests(cell) == wrong


def test_promises_are_the_bold_beginnings() -> None:
    text = "\n## A\n\n**One.** Text.\n**No one.**\n\n- **Two**, that\n- three **four**\n"
    assert promises(f"{text}\n## What it does not hold back\n\n**x**\n") == ["One", "Two"]


def test_each_fault_that_was_tried_has_a_test_or_a_command() -> None:
    tests = rows(RELIABILITY.read_text())
    assert len(tests) > 15
    for cell in tests.values():
        assert _NAME.search(cell) or re.search(r"`make (kills|fuzz|soak)`", cell), cell
        assert not _NAME.search(cell) or wrong_tests(cell) == []
