"""``kruise-agents`` without a subcommand, and without extras."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kruise_agents import __version__
from kruise_agents.cli import COMMANDS

WITHOUT_EXTRAS = """
import sys
for name in ("click", "rich", "starlette", "trustme", "uvicorn"):
    sys.modules[name] = None
from kruise_agents.cli import main
main()
"""
pytestmark = pytest.mark.live


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def start(*arguments: str, stdout: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WITHOUT_EXTRAS, *arguments],
        env=os.environ | {"E2B_DOMAIN": "localhost:7788"},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command_and_needs_no_extra(option: str) -> None:
    done = run(option)
    assert (done.returncode, done.stderr) == (0, "")
    for name, command in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert command.help in done.stdout


def test_version_needs_no_extra() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"kruise-agents, version {__version__}\n")


def test_without_a_command_it_prints_help_and_fails() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: kruise-agents COMMAND" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--http", "--env"]])
def test_a_reader_that_is_gone_ends_a_command_without_a_word(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = start(*arguments, stdout=writer)
    os.close(writer)
    assert (done.wait(60), done.communicate()[1]) == (1, "")


def test_a_full_disk_is_told_in_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = start("--help", stdout=full)
    assert done.communicate(timeout=60)[1] == "kruise-agents: No space left on device\n"
    assert done.returncode == 1


def test_ctrl_c_ends_a_command_without_a_word() -> None:
    prelude = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    interrupt = "sys.modules['kruise_agents.cli.env'] = type('M', (), {'main': lambda _: signal.raise_signal(2)})\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + interrupt + WITHOUT_EXTRAS, "env"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("serv", "there is no command 'serv'; did you mean 'serve'?"),
        ("xyzzy", "there is no command 'xyzzy'; there are serve"),
        ("--port", "there is no option '--port'"),
    ],
)
def test_a_wrong_command_is_named(name: str, message: str) -> None:
    done = run(name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"kruise-agents: {message}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_that_the_reference_can_read(name: str) -> None:
    module = importlib.import_module(f"kruise_agents.cli.{name.replace('-', '_')}")
    assert callable(module.main)
    assert hasattr(module, "command") or callable(module.parser)
