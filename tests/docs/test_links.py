"""The search for links and pages that lead nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.links import REPOSITORY, Document, Link, Tree, slug_of


@pytest.mark.parametrize(
    ("heading", "slug"),
    [
        ("Four ways to connect", "four-ways-to-connect"),
        ("`kruise-agents serve`", "kruise-agents-serve"),
        ("What is an `E2B_DOMAIN`?", "what-is-an-e2b_domain"),
        ("1. Native protocol", "1-native-protocol"),
        ("A – B, and C", "a--b-and-c"),
        ("[Text](https://example.com/x) *here*", "text-here"),
        ("Über", "über"),
    ],
)
def test_headings_have_the_anchors_of_github(heading: str, slug: str) -> None:
    assert slug_of(heading) == slug


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "docs").mkdir()
    (tmp_path / "LICENSE").touch()
    (tmp_path / "docs" / "index.md").write_text(
        "# Start\n\n```{toctree}\n:hidden:\n\na\nBe <b>\nmissing\n```\n```sh\n# No heading [x](nowhere)\n```\n"
    )
    (tmp_path / "docs" / "a.md").write_text("# A `b`\n## Twice\n## Twice\n<!-- [x](nowhere) -->\n`[x](nowhere)`\n")
    (tmp_path / "docs" / "b.md").write_text("# B\n")
    (tmp_path / "docs" / "c.md").write_text("# C\n")
    return Tree(tmp_path, sorted((tmp_path / "docs").glob("*.md")))


def test_pages_that_are_not_in_the_contents(tree: Tree) -> None:
    assert tree.unreachable_pages() == ["docs/c.md"]
    assert tree.missing_pages() == ["docs/index.md: docs/missing.md"]


@pytest.mark.parametrize(
    "target",
    [
        *("a.md", "a.md#a-b", "a.md#twice", "a.md#twice-1", "#c", "./a.md", "mailto:somebody@example.com"),
        *("https://example.com/a_(b)", REPOSITORY, f"{REPOSITORY}/issues", f"{REPOSITORY}/blob/main/LICENSE"),
        f"{REPOSITORY}/blob/main/docs/a.md#a-b",
    ],
)
def test_a_link_that_leads_somewhere(tree: Tree, target: str) -> None:
    assert _errors(tree, target) == []


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("nowhere.md", "there is no such file"),
        ("a.md#b", "there is no such heading"),
        ("a.md#twice-2", "there is no such heading"),
        ("index.md#no-heading-x", "there is no such heading"),
        ("../LICENSE", f"the site does not have it; write {REPOSITORY}/blob/main/..."),
        (f"{REPOSITORY}/blob/main/nowhere", "there is no such file"),
        (f"{REPOSITORY}/blob/main/docs/a.md#b", "there is no such heading"),
        (f"{REPOSITORY}/wiki", "not a place of this repository; files are below /blob/main/"),
        ("http://example.com", "not https"),
        ("https://localhost/x", "no name of a host"),
        ("https://", "no name of a host"),
    ],
)
def test_a_link_that_leads_nowhere(tree: Tree, target: str, error: str) -> None:
    assert _errors(tree, target) == [f"docs/c.md:3: {target}: {error}"]


def _errors(tree: Tree, target: str) -> list[str]:
    page = next(path for path in tree.documents if path.name == "c.md")
    page.write_text(f"# C\n\n[text]({target})\n")
    tree.documents[page] = Document(page)
    return list(tree.broken_links())


def test_all_kinds_of_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '[![alt](a.svg)](b "title")\n<img src="c.svg">\n<https://d.example>\n\n[x]: e\n[long\ntext](f)\n`[no](g)`\n'
    )
    assert Document(page).links == [
        *(Link(1, "a.svg"), Link(1, "b"), Link(2, "c.svg"), Link(3, "https://d.example")),
        *(Link(5, "e"), Link(7, "f")),
    ]
