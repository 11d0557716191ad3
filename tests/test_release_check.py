"""The faults that `make release-check` finds: each thing broken once."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
CHANGELOG = "# Changelog\n\n## [1.2.0] - 2030-01-31\n\n### Added\n"
TRACKED = ["LICENSE", "README.md", "src/kruise_agents/__init__.py", "src/kruise_agents/py.typed", "tests/test_a.py"]
INFO = "kruise_agents-1.2.0.dist-info/"
WHEEL = [
    "kruise_agents/__init__.py",
    "kruise_agents/py.typed",
    f"{INFO}METADATA",
    f"{INFO}entry_points.txt",
    f"{INFO}licenses/LICENSE",
]
PROJECT = "https://github.com/openkruise/kruise-agents"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("release_check")


@pytest.mark.parametrize(
    ("version", "changelog", "release", "tag", "problem"),
    [
        ("1.2.0", CHANGELOG, True, "v1.2.0", None),
        ("1.2.0", CHANGELOG.replace("2030-01-31", "unreleased"), False, None, None),
        ("1.2.0", CHANGELOG.replace("2030-01-31", "unreleased"), True, None, "1.2.0 is 'unreleased'"),
        ("1.2.0", CHANGELOG.replace("2030-01-31", "31.1.2030"), False, None, "'31.1.2030', after 1.2.0, is not a date"),
        ("1.3.0", CHANGELOG, False, None, "no section '## [1.3.0]"),
        ("1.2", CHANGELOG, False, None, "no section '## [1.2]"),
        ("1.2.0", CHANGELOG, True, "v1.2.1", "the tag is v1.2.1"),
        ("1.2.0", CHANGELOG, True, "1.2.0", "the tag is 1.2.0"),
        ("01.2.0", CHANGELOG.replace("1.2.0", "01.2.0"), False, None, "write the version 01.2.0 as 1.2.0"),
        ("next", CHANGELOG.replace("1.2.0", "next"), False, None, "'next' is not a version"),
    ],
)
def test_version_changelog_and_tag_say_the_same(
    check: ModuleType, version: str, changelog: str, release: bool, tag: str | None, problem: str | None
) -> None:
    found = list(check.version_problems(version, changelog, release=release, tag=tag))
    assert [bool(problem and problem in text) for text in found] == ([True] if problem else [])


def test_the_sdist_is_the_repository(check: ModuleType) -> None:
    names = [*TRACKED, "PKG-INFO"]
    assert list(check.sdist_problems(names, TRACKED)) == []
    assert list(check.sdist_problems(names[1:], TRACKED)) == ["the sdist lacks LICENSE"]
    assert list(check.sdist_problems([*names, "notes.txt"], TRACKED)) == [
        "the sdist has notes.txt, which is not in the repository"
    ]


def test_the_wheel_is_the_code_and_nothing_else(check: ModuleType) -> None:
    assert list(check.wheel_problems(WHEEL, TRACKED)) == []
    for number, name in enumerate(WHEEL):
        without = WHEEL[:number] + WHEEL[number + 1 :]
        lacks = list(check.wheel_problems(without, TRACKED))
        assert bool(lacks) == (not name.endswith("METADATA")), name
        assert all(name.endswith(text.removeprefix("the wheel lacks ")) for text in lacks)
    for name in ("tests/test_a.py", "kruise_agents/__pycache__/a.pyc"):
        assert f"the wheel has {name}, which is not in src/" in check.wheel_problems([*WHEEL, name], TRACKED)
    cached = list(check.wheel_problems([*WHEEL, "kruise_agents/__pycache__/a.pyc"], TRACKED))
    assert "the wheel has kruise_agents/__pycache__/a.pyc, which is no source" in cached


@pytest.mark.parametrize("link", ["docs/index.md", "LICENSE", "/docs", "../x.md", "http://example.com"])
def test_a_link_that_the_package_index_would_break_is_named(check: ModuleType, link: str) -> None:
    assert [link in text for text in check.readme_problems(f"[a]({PROJECT}) [b]({link})")] == [True]
    assert [link in text for text in check.readme_problems(f'[a]({PROJECT}) <img src="{link}">')] == [True]


def test_a_description_without_links_is_not_the_readme(check: ModuleType) -> None:
    assert list(check.readme_problems(f"[a]({PROJECT}) [b](#below)")) == []
    assert len(list(check.readme_problems("nothing"))) == 1


@pytest.mark.parametrize(
    ("origin", "warned"),
    [
        (PROJECT, False),
        (f"{PROJECT}.git", False),
        ("git@github.com:openkruise/kruise-agents.git", False),
        ("ssh://git@github.com/openkruise/kruise-agents", False),
        ("https://github.com/somebody/kruise-agents", True),
        ("", True),
    ],
)
def test_a_clone_of_another_repository_is_only_warned_of(check: ModuleType, origin: str, warned: bool) -> None:
    assert bool(list(check.origin_warnings(origin, PROJECT))) is warned


def test_relative_links_of_the_readme_become_absolute() -> None:
    specification = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert specification is not None
    assert specification.loader is not None
    hook = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(hook)
    text = (
        'a [page](docs/a.md#b), [file](LICENSE), [folder](docs), [here](#b), [there](https://a.b) <img src="a/b.svg">'
    )
    files = f"{PROJECT}/blob/v1.2.0"
    assert hook.absolute_links(text, "v1.2.0") == (
        f"a [page]({files}/docs/a.md#b), [file]({files}/LICENSE), [folder]({files}/docs), [here](#b), "
        f'[there](https://a.b) <img src="{PROJECT}/raw/v1.2.0/a/b.svg">'
    )


@pytest.mark.live
def test_what_is_wrong_ends_with_a_code_and_a_text(tmp_path: Path) -> None:
    """The check runs in a clone in which the changelog lacks the version and the package lacks a file."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, clone], check=True)
    start = clone / "src" / "kruise_agents" / "__init__.py"
    start.write_text(re.sub(r'__version__ = ".*"', '__version__ = "99.0.0"', start.read_text()))
    (clone / "src" / "kruise_agents" / "py.typed").unlink()
    path = os.pathsep.join([str(clone / "scripts"), str(clone / "tests")])
    done = subprocess.run(
        [sys.executable, "scripts/release_check.py", "--release"],
        cwd=clone,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "CHANGELOG.md has no section '## [99.0.0]" in done.stdout
    assert "not committed: src/kruise_agents/__init__.py, src/kruise_agents/py.typed" in done.stdout
