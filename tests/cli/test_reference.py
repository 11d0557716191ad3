"""The generated pages of docs/reference: they say what the code says, and all of it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import click
import pytest

from kruise_agents.cli import COMMANDS, Command

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference"
READ_VARIABLE = re.compile(r"(?:getenv|environ(?:\.get)?)[\[(]\s*\"([A-Z0-9_]+)\"")


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("reference.pages")


def test_every_page_is_what_the_code_says(pages: ModuleType) -> None:
    serve = importlib.import_module("kruise_agents.cli.serve").command
    serve.get_params(click.Context(serve, help_option_names=["--help"]))  # as a call of this process may have done
    assert importlib.import_module("generated").stale(pages.texts()) == [], "run `make reference`"


def test_a_new_command_appears_by_itself(pages: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command
    @click.argument("what", type=click.Choice(["left", "right"]))
    @click.option("--times", type=click.IntRange(1, 2000), default=3, help="How often.")
    @click.option("--quiet", is_flag=True, help="Say nothing.")
    def turn(what: str, times: int, quiet: bool) -> None:
        """Turn the thing."""

    monkeypatch.setitem(COMMANDS, "turn", Command("Turn the thing."))
    monkeypatch.setitem(sys.modules, "kruise_agents.cli.turn", cast(ModuleType, SimpleNamespace(command=turn)))
    text = pages.command_line.page()
    assert "- [`kruise-agents turn`](#kruise-agents-turn): turn the thing\n" in text
    assert re.search(r"^  turn +Turn the thing\.$", text, re.MULTILINE)
    assert "kruise-agents turn [OPTIONS] {left|right}\n" in text
    assert "| `--times INTEGER` | `3` | How often. 1 to 2,000. |" in text
    assert "| `--quiet` | off | Say nothing. |" in text


@pytest.mark.parametrize("package", ["kruise_agents", "e2b", "e2b_code_interpreter"])
def test_every_variable_that_is_read_is_on_the_page(package: str) -> None:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    sources = Path(spec.origin).parent.rglob("*.py")
    read = {name for source in sources for name in READ_VARIABLE.findall(source.read_text(encoding="utf-8"))}
    page = (PAGES / "environment.md").read_text(encoding="utf-8")
    assert [name for name in sorted(read) if f"`{name}`" not in page] == []


def test_every_variable_of_the_sdk_on_the_page_is_read(pages: ModuleType) -> None:
    spec = importlib.util.find_spec("e2b")
    assert spec is not None
    assert spec.origin is not None
    read = "".join(source.read_text(encoding="utf-8") for source in Path(spec.origin).parent.rglob("*.py"))
    told = [*pages.environment.SDK_ADDRESSES, *pages.environment.SDK_CONNECTIONS]
    assert [name for name, *_ in told if name not in READ_VARIABLE.findall(read)] == []
