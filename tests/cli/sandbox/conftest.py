"""The commands of ``kruise-agents sandbox``, called in this process, and one sandbox for all tests of a file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.cli.sandbox import main
from kruise_agents.patch_e2b import patch_e2b

if TYPE_CHECKING:
    from support.managers import RunningManager


class Done(NamedTuple):
    """The outcome of a command."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]
Program = Callable[..., Any]
"""A function that returns a Popen whose streams are known by the caller's options."""


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """A function that calls a command in this process, without a manager in its environment."""
    for name in ("E2B_DOMAIN", "E2B_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def called(*arguments: object) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return called


@pytest.fixture
def ks(call: Call, manager: RunningManager, monkeypatch: pytest.MonkeyPatch) -> Call:
    """A function that calls a command in this process, with the manager in its environment."""
    for name, value in manager.environment().items():
        monkeypatch.setenv(name, value)
    return call


@pytest.fixture(scope="module")
def sandbox(manager: RunningManager) -> Iterator[Any]:
    """A sandbox for all tests of a file, as an object of the SDK."""
    with patch_e2b(False), Sandbox.create(timeout=900, domain=manager.domain, api_key=manager.api_key) as made:
        yield made


@pytest.fixture
def program(manager: RunningManager) -> Program:
    """A function that starts a command as a program of its own, which runs the code of ``prelude`` first."""

    def started(*arguments: object, prelude: str = "", **options: Any) -> Any:
        program = f"{prelude}\nfrom kruise_agents.cli import main\nmain()"
        command = [sys.executable, "-c", program, "sandbox", *map(str, arguments)]
        environment = {"PATH": os.environ["PATH"], **manager.environment()}
        return subprocess.Popen(command, env=environment, **options)

    return started
