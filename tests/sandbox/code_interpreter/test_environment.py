"""Environment variables as source for the kernel."""

from __future__ import annotations

import os

import pytest

from kruise_agents.sandbox.code_interpreter.environment import (
    bash_assignment,
    difference,
    java_assignment,
    python_assignment,
    r_assignment,
    restoration,
)


def test_only_what_differs_is_changed() -> None:
    present = {"SAME": "1", "OLD": "1", "OTHER": "1"}
    wanted = {"SAME": "1", "OTHER": "2", "NEW": "3"}
    assert difference(present, wanted) == {"OLD": None, "OTHER": "2", "NEW": "3"}


def test_a_variable_of_a_call_goes_back_to_the_global_value_or_away() -> None:
    assert restoration({"A": "call", "B": "call"}, {"A": "global"}) == {"A": "global", "B": None}


@pytest.mark.parametrize("value", ["", "it's", '"', "a\nb", "\\", "é", "\udcff", "{}", "%s"])
def test_no_value_can_break_the_source(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KA_REMOVED", "1")
    monkeypatch.setenv("KA_SET", "before")
    names: dict[str, object] = {}
    exec(python_assignment({"KA_SET": value, "KA_REMOVED": None, "KA_NEVER": None}), names)
    assert os.environ["KA_SET"] == value
    assert "KA_REMOVED" not in os.environ
    assert set(names) == {"__builtins__"}


@pytest.mark.parametrize("name", ["A=B", "A B", "A[0]", ""])
def test_bash_skips_an_impossible_name_and_fails(name: str) -> None:
    changes = {"KA_FIRST": "1", name: "x", "KA_LAST": None}
    assert bash_assignment(changes) == "export KA_FIRST=$'1'; unset KA_LAST; false"


def test_r_and_java_are_told_in_their_own_words() -> None:
    changes = {"SET": 'a "b"\\\n', "GONE": None}
    assert r_assignment(changes) == (r'invisible({Sys.setenv(`SET` = "a \"b\"\\\n"); Sys.unsetenv(c("GONE"))})')
    assert java_assignment(changes) == (r'System.setProperty("SET", "a \"b\"\\\n"); System.clearProperty("GONE");')
