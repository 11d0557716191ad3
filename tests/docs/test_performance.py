"""The pages and pictures on figures: they say what the data of the benchmarks say, and all of it."""

from __future__ import annotations

import copy
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from support.documents import ROOT
from support.site import wrong_fetches

PICTURES = sorted((ROOT / "docs" / "explanation").glob("performance-*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("benchmarks.written")


@pytest.fixture
def pictures(written: ModuleType) -> ModuleType:
    return importlib.import_module("benchmarks.pictures")


def records(written: ModuleType) -> dict[str, Any]:
    return {name: copy.deepcopy(written.records.read(name)) for name in written.NAMES}


def test_every_page_and_picture_is_what_the_figures_say(written: ModuleType) -> None:
    assert written.generated.stale(written.files()) == [], "run `make pictures`"
    assert {path.name for path in PICTURES} == {path.name for path in written.files() if path.suffix == ".svg"}


def test_the_page_shows_every_picture_and_leaves_nothing_open(written: ModuleType) -> None:
    page = written.comparison.page(records(written))
    assert {path.name for path in PICTURES} == set(re.findall(r"\]\((\S+\.svg)\)", page))
    assert "{{" not in page


def test_another_figure_changes_page_and_picture(written: ModuleType) -> None:
    figures = records(written)
    figures["fleet"]["warm"] |= {"p50_ms": 77.7, "of_jupyter": 0.4321}
    page = written.comparison.page(figures)
    assert "| 77.7 ms |" in page
    assert "| 0.432 |" in page
    assert "Targets that these figures miss: the first result from a pool, " in page
    assert "77.7 ms" in written.comparison.pictures(figures)["performance-latency.svg"]
    assert "p50 78 ms" in written.pages.pages(figures)["fleet.md"]


def test_calls_that_are_slower_than_e2bs_servers_are_said_to_be(written: ModuleType) -> None:
    figures = records(written)
    page = written.comparison.page(figures)
    for row in figures["e2b-servers"]["rows"]:
        verdict = "slower" if row["ratio"] > 1 else "faster"
        assert f"| {row['what']} | {row['server']} | {row['ratio']:g} | {verdict} |" in page


def test_without_nginx_the_rest_is_written(written: ModuleType) -> None:
    figures = records(written)
    figures["sandbox"]["transfer"] = None
    assert "| upload and download | not measured |" in written.comparison.page(figures)
    assert "performance-throughput.svg" not in written.comparison.pictures(figures)
    assert "Not measured: nginx" in written.pages.pages(figures)["sandbox.md"]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_picture_can_be_read_by_everyone(path: Path, pictures: ModuleType) -> None:
    root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    named = root.attrib["aria-labelledby"].split()
    texts = {element.attrib.get("id"): element.text for element in root}
    assert root.attrib["role"] == "img"
    assert [element.tag for element in root][:2] == [f"{SVG}title", f"{SVG}desc"]
    assert all(texts[name] for name in named)
    for element in root.iter(f"{SVG}text"):
        assert element.text is not None
        assert element.text in str(texts["desc"])
    style = root.findtext(f"{SVG}style") or ""
    assert "prefers-color-scheme: dark" in style
    width = float(root.attrib["width"])
    assert width <= 400, "letters get too small on a phone"
    _nothing_lies_outside(root, pictures.LETTER, width)


def _nothing_lies_outside(root: ElementTree.Element, letter: float, width: float) -> None:
    height = float(root.attrib["height"])
    lines: dict[str, float] = {}
    for element in root.iter(f"{SVG}text"):
        lines[element.attrib["y"]] = lines.get(element.attrib["y"], 0) + len(element.text or "") * letter
    assert max(lines.values()) <= width - 32, "a label runs into its figure"
    for element in root.iter(f"{SVG}rect"):
        x, y, wide, high = (float(element.attrib[name]) for name in ("x", "y", "width", "height"))
        assert x + wide <= width
        assert y + high <= height


def test_bars_are_as_long_as_their_figures(pictures: ModuleType) -> None:
    bars = [pictures.Bar("a & b", 10.0), pictures.Bar("c", 2.5, ours=False)]
    root = ElementTree.fromstring(pictures.picture("T <1>", [pictures.Panel("H", "ms", bars)]))
    widths = {
        element.attrib["class"]: float(element.attrib["width"])
        for element in root.iter(f"{SVG}rect")
        if element.attrib["class"] in ("ours", "other")
    }
    assert widths["other"] / widths["ours"] == pytest.approx(0.25, abs=0.01)
    assert root.findtext(f"{SVG}title") == "T <1>"
    assert root.findtext(f"{SVG}desc") == "H: a & b 10 ms; c 2.5 ms."


def test_pictures_fetch_nothing(tmp_path: Path) -> None:
    for path in PICTURES:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert wrong_fetches(tmp_path) == []
    assert [path.name for path in PICTURES if re.search(r"href|url\(|@import|@font-face", path.read_text())] == []


FILES = {
    "calls": 3,
    "uploads": 2,
    "rows": [
        {"what": "`files.read`", "go": 1.0, "nginx": 2.0, "bare": 0.9, "into": 0.5, "through": 1.25, "sdk": 1.5}
        | {"of_go": 1.5, "of_nginx": 0.75, "floor": 0.9},
        {"what": "an upload", "go": 60.0, "nginx": 70.0, "sdk": 30.0, "of_go": 0.5, "of_nginx": 0.43},
    ],
}


def test_files_are_shown_beside_the_file_server(written: ModuleType) -> None:
    figures = records(written)
    figures["sandbox"]["files"] = FILES
    page = written.pages.pages(figures)["sandbox.md"]
    assert "| `files.read` | 1.00 | 2.00 | 0.90 | 0.50 | 1.25 | 1.50 | 1.50 | 0.75 |" in page
    assert "| an upload | 60.00 | 70.00 |  |  |  | 30.00 | 0.50 | 0.43 |" in page
    assert "In this run their time is 0.90 of Go's for `files.read`." in page
    comparison = written.comparison.page(figures)
    assert "| `files.read`, SDK | 1.50 ms | the SDK and a plain file server in Go | 1.00 ms | 1.50 |" in comparison
    assert "files beside a file server in Go (`files.read`)" in " ".join(comparison.split())


def test_without_go_the_rest_is_written(written: ModuleType) -> None:
    figures = records(written)
    figures["sandbox"]["files"] = None
    assert "It takes Go and nginx" in written.pages.pages(figures)["sandbox.md"]
    assert "file server in Go |" not in written.comparison.page(figures)
