"""Links and anchors of Markdown documents, by the rules of GitHub, which the site shares."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPOSITORY = "https://github.com/openkruise/kruise-agents"
"""The address of the repository. A link below this address names a file of this tree."""
_PARTS_OF_THE_REPOSITORY = (
    "",
    "/issues",
    "/pulls",
    "/releases",
    "/security",
    "/actions",
    "/discussions",
    "/commits",
    ".git",
)

_FENCED = re.compile(r"^ *(`{3,}|~{3,})(.*)\n(?:.*\n)*?^ *\1[`~]* *$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"(?<!`)(`+)(?!`)((?:.|\n(?!\n))+?)(?<!`)\1(?!`)")
_INLINE = re.compile(r"\]\(\s*<?(?P<target>[^()\s<>]*(?:\([^()\s]*\)[^()\s<>]*)*)>?(?:\s+[\"'][^)]*[\"'])?\s*\)")
_REFERENCE = re.compile(r"^ {0,3}\[(?!\^)[^\]]+\]:\s*<?(?P<target>[^\s>]+)", re.MULTILINE)
_AUTOLINK = re.compile(r"<(?P<target>[a-z][a-z0-9+.-]+:[^\s>]+)>")
_HTML = re.compile(r"<[a-z]+\s[^>]*?\b(?:href|src|srcset)=[\"'](?P<target>[^\"']+)", re.IGNORECASE)
_HTML_ANCHOR = re.compile(r"<[a-z]+\s[^>]*?\b(?:id|name)=[\"']([^\"']+)")
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$", re.MULTILINE)
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}$")
_TOCTREE = re.compile(r"^(`{3,})\{toctree\}.*\n(?P<body>(?:.*\n)*?)\1 *$", re.MULTILINE)


@dataclass(frozen=True)
class Link:
    line: int
    target: str


class Document:
    """A Markdown file with its links and its anchors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._text = path.read_text(encoding="utf-8")

    @cached_property
    def links(self) -> list[Link]:
        text = _CODE.sub(_blank, self._prose)
        found = [
            Link(text.count("\n", 0, match.start("target")) + 1, match["target"])
            for pattern in (_INLINE, _REFERENCE, _AUTOLINK, _HTML)
            for match in pattern.finditer(text)
        ]
        return sorted(found, key=lambda link: link.line)

    @cached_property
    def anchors(self) -> set[str]:
        seen: dict[str, int] = {}
        found = set(_HTML_ANCHOR.findall(self._prose))
        for match in _HEADING.finditer(self._prose):
            slug = slug_of(match[1])
            count = seen[slug] = seen.get(slug, -1) + 1
            found.add(f"{slug}-{count}" if count else slug)
        return found

    @cached_property
    def toctree(self) -> list[Path]:
        """The pages below this page in the site's list of contents."""
        entries = []
        for match in _TOCTREE.finditer(self._text):
            for line in map(str.strip, match["body"].splitlines()):
                if line and not line.startswith(":"):
                    entry = re.sub(r"^.*<(.+)>$", r"\1", line).removesuffix(".md")
                    path = Path(posixpath.normpath(self.path.parent / f"{entry}.md"))
                    entries += sorted(path.parent.glob(path.name)) if "*" in entry else [path]
        return entries

    @cached_property
    def _prose(self) -> str:
        return _FENCED.sub(_blank, _COMMENT.sub(_blank, self._text))


def slug_of(heading: str) -> str:
    """Return the anchor that GitHub makes from a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"(?<![\w`])([*_]{1,2})(?=\S)([^*_`]+)\1(?!\w)", r"\2", text)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


class Tree:
    """A set of documents, and the check of their links."""

    def __init__(self, root: Path, paths: list[Path]) -> None:
        self._root = root
        self._site = root / "docs"
        self.documents = {path: Document(path) for path in paths}

    def broken_links(self) -> Iterator[str]:
        for document in self.documents.values():
            name = document.path.relative_to(self._root)
            for link in document.links:
                if error := self._wrong_with(document, link.target):
                    yield f"{name}:{link.line}: {link.target}: {error}"

    def unreachable_pages(self) -> list[str]:
        """Return the pages of the site that are missing in the site's list of contents."""
        reached: set[Path] = set()
        waiting = [self._site / "index.md"]
        while waiting:
            path = waiting.pop()
            if path in self.documents and path not in reached:
                reached.add(path)
                waiting += self.documents[path].toctree
        pages = {path for path in self.documents if path.is_relative_to(self._site)}
        return sorted(str(path.relative_to(self._root)) for path in pages - reached)

    def missing_pages(self) -> list[str]:
        """Return the entries of the list of contents that name no page."""
        return sorted(
            f"{document.path.relative_to(self._root)}: {path.relative_to(self._root)}"
            for document in self.documents.values()
            for path in document.toctree
            if path not in self.documents
        )

    def _wrong_with(self, document: Document, target: str) -> str | None:
        parts = urlsplit(target)
        if parts.scheme == "mailto":
            return None if "@" in parts.path else "no address"
        if parts.scheme or parts.netloc:
            return self._wrong_with_url(target)
        if not parts.path:
            return self._wrong_with_anchor(document.path, parts.fragment)
        path = Path(posixpath.normpath(document.path.parent / unquote(parts.path)))
        if document.path.is_relative_to(self._site) and not path.is_relative_to(self._site):
            return f"the site does not have it; write {REPOSITORY}/blob/main/..."
        return self._wrong_with_path(path, parts.fragment)

    def _wrong_with_url(self, target: str) -> str | None:
        parts = urlsplit(target)
        if parts.scheme != "https":
            return "not https"
        if not _HOST.match(parts.netloc):
            return "no name of a host"
        if parts.netloc != "github.com" or not target.startswith(REPOSITORY):
            return None
        rest = target.removeprefix(REPOSITORY).partition("#")[0].partition("?")[0]
        if found := re.match(r"/(?:blob|tree)/main/(.+)$", rest):
            return self._wrong_with_path(self._root / found[1].rstrip("/"), parts.fragment)
        known = any(
            rest.rstrip("/") == part or rest.startswith(f"{part}/") for part in _PARTS_OF_THE_REPOSITORY if part
        )
        return None if known or rest in ("", "/") else "not a place of this repository; files are below /blob/main/"

    def _wrong_with_path(self, path: Path, fragment: str) -> str | None:
        if not path.exists():
            return "there is no such file"
        return self._wrong_with_anchor(path, fragment) if path.suffix == ".md" else None

    def _wrong_with_anchor(self, path: Path, fragment: str) -> str | None:
        if not fragment:
            return None
        document = self.documents.get(path) or Document(path)
        return None if unquote(fragment) in document.anchors else "there is no such heading"


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])
