"""The list of releases, the matrix that follows from the list, and the matrix's page, which hides no fault."""

from __future__ import annotations

import sys
from datetime import date

import pytest
from packaging.version import Version

from kruise_agents.client.installed_sdk import WINDOWS
from support.environments import ROOT
from support.matrix import Cell
from support.releases import Pair, Releases, read_releases

GOOD = {"create": "ok", "kill": "ok", "API": "ok", "files": "ok", "wire": "ok"}


@pytest.fixture(scope="module")
def releases() -> Releases:
    return read_releases()


def text_of_page(releases: Releases, cells: list[Cell]) -> str:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from compat_table import page
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return page(releases, cells, dict.fromkeys(releases.broken, True), "2 cores", date(2026, 1, 2))


def row_of(page: str, release: str) -> list[str]:
    (row,) = (line for line in page.splitlines() if line.startswith(f"| {release} | ") and "`" not in line)
    return [value.strip() for value in row.split("|")[1:-1]]


def test_the_list_ends_where_the_window_of_the_patch_ends(releases: Releases) -> None:
    for window, listed in zip(WINDOWS, (releases.e2b, releases.code_interpreter, releases.desktop), strict=True):
        versions = list(listed)
        assert [versions[0], versions[-1]] == [window.oldest, window.newest]
        assert versions == sorted(set(versions), key=Version)


@pytest.mark.parametrize(
    ("release", "others"),
    [
        ("2.8.0", [("2.4.1", "2.1.0"), ("2.6.0", "2.1.0")]),
        ("2.38.0", [(None, "2.1.0"), (None, "2.4.0")]),
        ("2.52.0", [("2.10.1", "2.1.0"), ("2.10.1", "2.7.2")]),
        ("2.63.0", [("2.10.1", "2.1.0"), ("2.11.5", "2.7.2")]),
    ],
)
def test_a_release_is_run_alone_and_with_both_ends_of_what_works_with_it(
    release: str, others: list[tuple[str | None, str]], releases: Releases
) -> None:
    assert releases.pairs(release) == [Pair(release), *(Pair(release, *ones) for ones in others)]


def test_no_pair_is_listed_as_working_and_as_broken(releases: Releases) -> None:
    for broken in releases.broken:
        assert broken.pair.code_interpreter not in releases.working_code_interpreters(broken.pair.e2b)


def test_one_fault_in_one_mode_makes_the_cell_red_and_says_why(releases: Releases) -> None:
    bad = GOOD | {"files": "AssertionError: found 1,\nwanted 2"}
    cells = [
        Cell(Pair("2.63.0"), "https", {"sync": GOOD, "async": GOOD}, 5),
        Cell(Pair("2.63.0", "2.11.5", "2.7.2"), "http", {"sync": GOOD, "async": bad}, 5),
    ]
    page = text_of_page(releases, cells)
    assert row_of(page, "2.63.0")[:6] == ["2.63.0", "2.11.5", "2.7.2", "ok", "**red**", "-"]
    assert "- 2.63.0 + 2.11.5 + desktop 2.7.2, http, async, files: AssertionError: found 1, wanted 2\n" in page
    assert "2 programs, 1 of them without a fault" in page


def test_a_sandbox_that_could_not_be_made_is_red_throughout(releases: Releases) -> None:
    cells = [Cell(Pair("2.63.0"), "https", {"sync": {"create": "401", "wire": "ok"}}, 1)]
    assert set(row_of(text_of_page(releases, cells), "2.63.0")[3:]) == {"**red**"}


def test_a_release_without_a_code_interpreter_is_not_blamed_on_the_patch(releases: Releases) -> None:
    cells = [Cell(Pair("2.38.0"), "https", {"sync": GOOD}, 1)]
    assert "native: no CI works" in row_of(text_of_page(releases, cells), "2.38.0")


def test_a_cell_is_kept_and_read_again() -> None:
    cell = Cell(Pair("2.63.0", "2.11.5"), "http", {"sync": GOOD, "async": GOOD}, 7)
    assert Cell.from_json(cell.to_json()) == cell
