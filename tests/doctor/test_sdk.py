"""Checks of the installed packages, each with the trouble and without it."""

from __future__ import annotations

import os
from pathlib import Path

import e2b.connection_config
import pytest

import kruise_agents
from kruise_agents import __version__
from kruise_agents.doctor.checks import Verdict
from support.diagnosis import finding, pretend

FINE, WARNING, BROKEN = Verdict.FINE, Verdict.WARNING, Verdict.BROKEN


def _with(versions: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, version in versions.items():
        pretend(package, version, folder)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize(
    ("base", "interpreter", "verdict"),
    [("2.63.0", "2.11.5", FINE), ("2.7.0", "2.11.5", BROKEN), ("99.0", "2.11.5", WARNING), ("2.63.0", "2.4.0", BROKEN)],
)
def test_releases(
    base: str, interpreter: str, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with({"e2b": base, "e2b-code-interpreter": interpreter}, tmp_path, monkeypatch)
    assert finding("sdk-version").verdict is verdict


@pytest.mark.parametrize(
    ("interpreter", "base", "verdict"),
    [
        ("2.4.1", "2.28.0", FINE),
        ("2.4.1", "2.28.1", BROKEN),
        ("2.6.2", "2.63.0", BROKEN),
        ("2.7.0", "2.37.1", FINE),
        ("2.7.0", "2.38.0", BROKEN),
        ("2.9.0", "2.39.1", FINE),
        ("2.9.2", "2.51.0", FINE),
        ("2.9.2", "2.52.0", BROKEN),
        ("2.10.0", "2.52.0", BROKEN),
        ("2.10.1", "2.52.0", FINE),
        ("2.10.4", "2.55.0", WARNING),
        ("2.10.4", "2.55.1", FINE),
        ("2.11.5", "2.63.0", FINE),
    ],
)
def test_pairs(interpreter: str, base: str, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with({"e2b": base, "e2b-code-interpreter": interpreter}, tmp_path, monkeypatch)
    assert finding("sdk-pair").verdict is verdict


def test_places_to_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert finding("sdk-places").verdict is FINE
    monkeypatch.delattr(e2b.connection_config.ConnectionConfig, "get_host")
    found = finding("sdk-places")
    assert (found.verdict, "get_host" in found.reason) == (BROKEN, True)


def test_a_copy_that_pythonpath_puts_first(tmp_path: Path) -> None:
    (tmp_path / "kruise_agents").mkdir()
    (tmp_path / "kruise_agents" / "__init__.py").write_text("")
    found = finding("one-copy", {"PYTHONPATH": f"/nowhere{os.pathsep}{tmp_path}"})
    assert (found.verdict, found.command.partition(" #")[0].strip()) == (BROKEN, "unset PYTHONPATH")
    assert str(tmp_path) in found.value
    own = Path(kruise_agents.__file__).parent.parent
    assert finding("one-copy", {"PYTHONPATH": str(own)}).verdict is FINE


def test_a_second_copy_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = finding("one-copy")
    assert (found.verdict, __version__ in found.value) == (FINE, True)
    (tmp_path / "kruise_agents").mkdir()
    (tmp_path / "kruise_agents" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = finding("one-copy")
    assert (found.verdict, str(tmp_path / "kruise_agents") in found.value) == (WARNING, True)


def test_another_distribution_of_the_same_import_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend("openkruise-agents-client", "0.1", tmp_path)
    (tmp_path / "openkruise_agents_client-0.1.dist-info" / "RECORD").write_text("kruise_agents/__init__.py,,\n")
    (tmp_path / "kruise_agents").mkdir()
    (tmp_path / "kruise_agents" / "__init__.py").touch()  # Python 3.13 leaves out files that are not there
    (tmp_path / "agents_api.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = finding("one-copy")
    assert found.verdict is WARNING
    assert "openkruise-agents-client (0.1), agents_api" in found.value
