"""The output of the commands: no control characters of strangers, whole lines in pipes, colours on terminals only."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kruise_agents.cli.sandbox.errors import describe
from kruise_agents.cli.sandbox.output import duration_text, plain, print_json, print_table, size_text
from kruise_agents.errors import DomainError


@given(st.text())
def test_plain_text_has_no_control_characters_and_keeps_the_others(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\udc80", r"\udc80"),
        ("naïve ☃ 文", "naïve ☃ 文"),
    ],
)
def test_escapes_stand_in_place_of_control_characters(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_row_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["A", "B"], [["x" * 500, "[red]y[/red]\x1b[31m"]])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["A", "B"], ["x" * 500, r"[red]y[/red]\x1b[31m"]]


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("variable", "coloured"), [(None, True), ("NO_COLOR", False)])
def test_colours_are_for_terminals_and_not_with_no_color(
    variable: str | None, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    if variable:
        monkeypatch.setenv(variable, "1")
    screen = Tty()
    monkeypatch.setattr(sys, "stdout", screen)
    print_table(["ID", "STATE"], [["i1", "running"]])
    assert ("\x1b[32m" in screen.getvalue()) is coloured


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "\x9b☃"})
    assert capsys.readouterr().out == '{\n  "a": "\\u009b\\u2603"\n}\n'


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (-5, "0s"), (59.9, "59s"), (61, "1m1s"), (7260, "2h1m"), (90061, "1d1h")]
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e9, "2.0 GB")])
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DomainError("a domain\nin two lines"), "a domain in two lines"),
        (PermissionError(13, "Permission denied", "/x"), "/x: Permission denied"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError(), "RuntimeError: no reason was given"),
    ],
)
def test_an_error_is_one_line(error: Exception, text: str) -> None:
    assert describe(error) == text
