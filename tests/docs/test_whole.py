"""The documents as a whole: their links lead somewhere, and the site is built from them without a warning."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from urllib.parse import urlencode

import pytest

from support.documents import ROOT, Page, document_paths, read_pages
from support.links import Document, Tree
from support.needs import browser
from support.site import build_site, wrong_fetches

WIDTH = 120


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def in_block(page: Page, number: int) -> bool:
    return any(block.line <= number <= block.line + len(block.text.splitlines()) for block in page.blocks)


def test_every_link_leads_somewhere() -> None:
    broken = list(Tree(ROOT, document_paths()).broken_links())
    assert broken == [], "\n".join(broken)


def test_the_contents_lead_to_every_page() -> None:
    tree = Tree(ROOT, document_paths())
    assert (tree.unreachable_pages(), tree.missing_pages()) == ([], [])


def test_lines_of_prose_fit_a_window() -> None:
    names = {"README.md", "CONTRIBUTING.md", "docs/index.md", "docs/quickstart.md"}
    pages = [page for page in read_pages() if page.name in names or page.name.startswith("docs/guides/")]
    long = [
        f"{page.name}:{number}"
        for page in pages
        for number, line in enumerate(page.text.splitlines(), 1)
        if len(line) > WIDTH and not line.startswith("|") and not in_block(page, number)
    ]
    assert len(pages) > len(names)
    assert long == []


def test_every_column_has_a_name() -> None:
    rows = ((path, *pair) for path in document_paths() for pair in pairwise(path.read_text().splitlines()))
    heads = [(path.name, head) for path, head, below in rows if re.fullmatch(r"\|[-:| ]+\|", below)]
    assert len(heads) > 100
    assert [where for where in heads if not all(cell.strip() for cell in where[1].strip("|").split("|"))] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build_site(folder, quiet=True)
    return folder


@pytest.mark.live
@pytest.mark.timeout(600)
def test_the_site_is_whole(site: Path) -> None:
    assert wrong_fetches(site) == []
    for page in (path for path in document_paths() if path.is_relative_to(ROOT / "docs")):
        html = (site / page.relative_to(ROOT / "docs")).with_suffix(".html").read_text()
        assert Document(page).anchors - set(re.findall(r'\bid="([^"]+)"', html)) == set(), page
        assert not re.search(r"<!-- *(file|run|exits with|output|run by|not run|uses|needs|Written by)\b", html), page


@pytest.mark.live
@pytest.mark.timeout(600)
@pytest.mark.needs("a browser")
def test_pages_look_right_on_a_phone(site: Path, tmp_path: Path) -> None:
    pages = [str(path.relative_to(site)) for path in site.rglob("*.html")]
    shutil.copytree(site, tmp_path / "site")
    shutil.copy(Path(__file__).with_name("looks.html"), tmp_path / "site")
    handler = partial(QuietHandler, directory=tmp_path / "site")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/looks.html?{urlencode({'page': pages}, doseq=True)}"
            command = [browser() or "", "--headless", "--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}"]
            command += ["--enable-logging=stderr", "--virtual-time-budget=300000", "--dump-dom", address]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        finally:
            server.shutdown()
    wrong = re.search(r"<pre>(.+)</pre>", done.stdout)
    assert wrong is not None, done.stderr
    assert json.loads(unescape(wrong[1])) == []
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
