"""The files that GitHub and the package index show: forms, policies and the description."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[0-9]*.yml"))
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md", ".github/PULL_REQUEST_TEMPLATE.md"]
ADDRESS = re.compile(r"https://github\.com/openkruise/kruise-agents/(?:blob|tree)/main/([^\s)#\"]+)")


def test_the_description_is_the_first_sentence_of_the_readme() -> None:
    first = (ROOT / "README.md").read_text().split("\n\n")[1]
    assert " ".join(re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", first).split()) == PROJECT["description"]


def test_every_address_of_the_package_is_one_of_github() -> None:
    assert {"Homepage", "Documentation", "Repository", "Issues", "Changelog"} <= PROJECT["urls"].keys()
    assert all(url.startswith("https://github.com/openkruise/") for url in PROJECT["urls"].values())


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_every_form_asks_for_nothing_secret(form: Path) -> None:
    text = form.read_text()
    assert re.search(r"(Remove|Paste no) API keys, tokens", text)
    assert re.search(r"I have removed API keys.*\n +required: true", text)


def test_there_is_a_form_for_each_kind() -> None:
    assert [form.stem for form in FORMS] == ["1-patch", "2-embedded-manager", "3-question"]


@pytest.mark.parametrize("page", [*PAGES, *(str(path.relative_to(ROOT)) for path in FORMS)])
def test_links_to_files_of_the_repository_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    named = ADDRESS.findall(text) + ADDRESS.findall(" ".join(PROJECT["urls"].values()))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.live  # Python asks `uname` for the processor
def test_the_command_for_versions_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = re.findall(r"python -c '(.+)'", FORMS[0].read_text())
    exec(command, {})
    printed = capsys.readouterr().out
    assert re.search(r"^e2b \d", printed, re.MULTILINE)
    assert re.search(r"^kruise-agents \d", printed, re.MULTILINE)


def test_commands_of_make_that_the_pages_name_exist() -> None:
    targets = re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    known = {name for target in targets for name in target.split()}
    named = {name for page in PAGES for name in re.findall(r"(?:`|^)make ([a-z-]+)", (ROOT / page).read_text(), re.M)}
    assert named
    assert named <= known
