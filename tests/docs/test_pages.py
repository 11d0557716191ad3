"""Every block of every document is run as its reader would run it, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.documents import Page, missing_need, read_pages
from support.page_session import PageSession

PAGES = {page.name: page for page in read_pages()}
RUN = [page for page in PAGES.values() if page.is_run]


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_run_or_says_why_not(name: str) -> None:
    assert PAGES[name].errors == [], "\n".join(PAGES[name].errors)


@pytest.mark.live
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page_does_what_it_says(page: Page, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    starts_sandboxes = page.uses_manager or any("kruise-agents serve" in block.text for block in page.blocks)
    for need in [*page.needs, *(["namespaces"] if starts_sandboxes else [])]:
        if reason := missing_need(need):
            pytest.skip(reason)
    manager = request.getfixturevalue("manager") if page.uses_manager else None
    variables, port = (manager.environment(), manager.port) if manager else ({}, None)
    try:
        with PageSession(page, tmp_path, variables, port) as session:
            session.run_page()
    except AssertionError as error:
        pytest.fail(str(error), pytrace=False)
