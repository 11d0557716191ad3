"""Hatchling's hook for the README on the package index, where relative links lead nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_REPOSITORY = "https://github.com/openkruise/kruise-agents"
_RELATIVE = re.compile(r"(\]\(|<img src=\")(?![a-z]+:|#|/)([^)\"\s]+)")
_VERSION = re.compile(r'^__version__ = "([^"]+)"', re.MULTILINE)


class ReadmeHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        root = Path(self.root)
        source = (root / "src" / "kruise_agents" / "__init__.py").read_text(encoding="utf-8")
        version = _VERSION.search(source)
        assert version is not None, "src/kruise_agents/__init__.py has no __version__"
        text = absolute_links((root / "README.md").read_text(encoding="utf-8"), f"v{version[1]}")
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute_links(text: str, tag: str) -> str:
    """Return Markdown whose relative links and pictures lead to the repository's files at a tag."""

    def absolute(link: re.Match[str]) -> str:
        folder = "blob" if link[2].partition("#")[0].endswith(".md") or "." not in link[2] else "raw"
        return f"{link[1]}{_REPOSITORY}/{folder}/{tag}/{link[2]}"

    return _RELATIVE.sub(absolute, text)
