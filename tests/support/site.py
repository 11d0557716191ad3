"""The site that Sphinx builds from docs/, and the files that a browser fetches to show its pages."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .environments import ROOT, tool_environment

_FETCHED = {"src", "srcset", "poster", "data", "background", "formaction", "action", "xlink:href"}
"""Attributes whose value a browser fetches, whatever the element is."""
_FETCHED_BY_LINKS = {
    *("stylesheet", "icon", "shortcut", "apple-touch-icon", "preload", "prefetch", "modulepreload", "manifest"),
    *("preconnect", "dns-prefetch"),
}
_OF_CSS = re.compile(r"@import\s+[\"']([^\"']+)|url\(\s*[\"']?([^\"')]+)")
_OF_JAVASCRIPT = re.compile(
    r"(?:\bfetch|\bimport|\bimportScripts|\bWorker|\bEventSource|\bWebSocket|\.open|\.sendBeacon)"
    r"\s*\([^)]{0,40}?[\"'`]((?:\w+:)?//[^\"'`]+)|(?:\.src|\.href)\s*=\s*[\"'`]((?:\w+:)?//[^\"'`]+)"
)


class BuildError(Exception):
    """A build of the site that Sphinx has ended with an error or a warning."""


def build_site(target: Path, *, quiet: bool) -> None:
    """Build the site into ``target``. Raise BuildError on any error or warning. ``quiet`` prints nothing."""
    command: list[str | Path] = [
        tool_environment("docs") / "python",
        "-m",
        "sphinx",
        "-b",
        "html",
        "-W",
        "--keep-going",
    ]
    command += ["-n", "-d", target / ".doctrees", *(["-q"] if quiet else []), ROOT / "docs", target]
    output = subprocess.PIPE if quiet else None
    done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, text=True, check=False)
    if done.returncode:
        raise BuildError(f"sphinx ended with code {done.returncode}\n{done.stdout or ''}{done.stderr or ''}")


def wrong_fetches(site: Path) -> list[str]:
    """Return a line for each fetch of a page that leaves the site, or that asks for a file that the site lacks."""
    wrong = []
    for file in sorted(site.rglob("*")):
        if file.suffix in _READERS and file.is_file():
            for target in _READERS[file.suffix](file.read_text(encoding="utf-8", errors="replace")):
                if error := _wrong_with(site, file, target.strip()):
                    wrong.append(f"{file.relative_to(site)}: {target}: {error}")
    return wrong


def _wrong_with(site: Path, file: Path, target: str) -> str | None:
    parts = urlsplit(target)
    if parts.scheme == "data" or not target or target.startswith("#"):
        return None
    if parts.scheme or parts.netloc:
        return "fetched from elsewhere"
    path = (file.parent / unquote(parts.path)).resolve()
    return None if path.is_relative_to(site.resolve()) and path.exists() else "not in the site"


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self._text_of: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value is not None}
        for name in _FETCHED & values.keys():
            found = [part.split()[0] for part in values[name].split(",")] if name == "srcset" else [values[name]]
            self.targets += found
        if tag == "link" and _FETCHED_BY_LINKS & set(values.get("rel", "").split()):
            self.targets.append(values.get("href", ""))
        if tag in ("use", "image") and "href" in values:
            self.targets.append(values["href"])
        if tag == "base" or (tag == "meta" and values.get("http-equiv", "").lower() == "refresh"):
            self.targets.append(values.get("href") or values.get("content", "").rpartition("url=")[2])
        self.targets += _of_css(values.get("style", ""))
        if tag in ("script", "style"):
            self._text_of = tag

    def handle_data(self, data: str) -> None:
        if self._text_of is not None:
            self.targets += _of_css(data) if self._text_of == "style" else _of_javascript(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == self._text_of:
            self._text_of = None


def _of_html(text: str) -> Iterator[str]:
    page = _Page()
    page.feed(text)
    yield from page.targets


def _of_css(text: str) -> Iterator[str]:
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    yield from (found[1] or found[2] for found in _OF_CSS.finditer(text))


def _of_javascript(text: str) -> Iterator[str]:
    yield from (found[1] or found[2] for found in _OF_JAVASCRIPT.finditer(text))


_READERS = {".html": _of_html, ".svg": _of_html, ".css": _of_css, ".js": _of_javascript}
