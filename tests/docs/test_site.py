"""The search for what a page of the site fetches."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.site import wrong_fetches


def wrong(folder: Path, name: str, text: str) -> list[str]:
    (folder / "there.png").touch()
    (folder / name).write_text(text)
    return [line.removeprefix(f"{name}: ") for line in wrong_fetches(folder)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<a href="https://example.com">x</a><link rel="next" href="https://example.com">'),
        ("a.html", '<img src="there.png?v=1"><img src="data:image/png;base64,AA"><svg><use href="#x"></use></svg>'),
        ("a.html", "<script>location.href; fetch('there.png')</script><p>@import 'https://example.com'</p>"),
        ("a.css", "/* url(https://example.com) */ a { background: url(there.png) }"),
        ("a.js", "// https://example.com\nconst about = 'https://example.com'"),
    ],
)
def test_what_is_in_the_site_may_be_fetched(tmp_path: Path, name: str, text: str) -> None:
    assert wrong(tmp_path, name, text) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script src="https://example.com/x"></script>'),
        ("a.html", '<link rel="stylesheet" href="//example.com/x">'),
        ("a.html", '<link rel="shortcut icon" href="https://example.com/x">'),
        ("a.html", '<img src="https://example.com/x">'),
        ("a.html", '<img srcset="there.png 1x, https://example.com/x 2x">'),
        ("a.html", "<p style=\"background: url('https://example.com/x')\">"),
        ("a.html", "<style>@import 'https://example.com/x';</style>"),
        ("a.html", "<script>fetch('https://example.com/x')</script>"),
        ("a.html", '<meta http-equiv="refresh" content="0; url=https://example.com/x">'),
        ("a.svg", '<svg><image href="https://example.com/x"/></svg>'),
        ("a.css", '@font-face { src: url("https://example.com/x") }'),
        ("a.js", 'const s = document.createElement("script"); s.src = "https://example.com/x"'),
    ],
)
def test_what_is_fetched_from_elsewhere_is_named(tmp_path: Path, name: str, text: str) -> None:
    (error,) = wrong(tmp_path, name, text)
    assert re.fullmatch(r"(https:)?//example.com/x: fetched from elsewhere", error)


def test_what_is_not_in_the_site_is_named(tmp_path: Path) -> None:
    assert wrong(tmp_path, "a.html", '<img src="gone.png">') == ["gone.png: not in the site"]
