"""The command ``kruise-agents completion``, and the suggestions for which its scripts ask."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from . import COMMANDS, COMPLETE_VARIABLE, PROGRAM

_SHELLS = ("bash", "zsh", "fish")


class _Program(click.Group):
    """The command line, as far as completion needs it. Only the module of the named subcommand is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            module = import_module(f".{cmd_name.replace('-', '_')}", __package__)
        except ModuleNotFoundError:
            return click.Command(cmd_name)  # its extra is missing
        found = getattr(module, "command", None)
        return found if isinstance(found, click.Command) else _of_parser(cmd_name, module.parser())

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name, help=COMMANDS[name].help) for name in COMMANDS if name.startswith(incomplete)]
        options = [CompletionItem(name) for name in ("--help", "--version") if name.startswith(incomplete)]
        return [*names, *(options if incomplete.startswith("-") else [])]


def _of_parser(name: str, parser: argparse.ArgumentParser) -> click.Command:
    """Return a command with the options and choices of a parser of argparse."""
    parameters: list[click.Parameter] = []
    for action in parser._actions:  # argparse has no public list
        choices = click.Choice([str(choice) for choice in action.choices]) if action.choices else None
        if not action.option_strings:
            parameters.append(click.Argument([action.dest], type=choices, nargs=-1))
            continue
        options: dict[str, Any] = {"is_flag": True} if action.nargs == 0 else {"type": choices, "multiple": True}
        parameters.append(click.Option([action.dest, *action.option_strings], help=action.help, **options))
    return click.Command(name, params=parameters, context_settings={"ignore_unknown_options": True})


def suggest() -> None:
    """Answer a script: print the suggestions for the words in the environment, and end the process."""
    shell, _, instruction = os.environ[COMPLETE_VARIABLE].partition("_")
    found = get_completion_class(shell)
    if found is None or instruction != "complete":
        sys.exit(1)
    print(found(_Program(PROGRAM), {}, PROGRAM, COMPLETE_VARIABLE).complete())


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(_SHELLS))
def command(shell: str) -> None:
    """Print the script that completes commands, options and IDs of sandboxes in a shell.

    \b
    For bash, in ~/.bashrc:
      eval "$(kruise-agents completion bash)"
    For zsh, in ~/.zshrc, after compinit:
      eval "$(kruise-agents completion zsh)"
    For fish, once:
      kruise-agents completion fish > ~/.config/fish/completions/kruise-agents.fish
    """
    found = get_completion_class(shell)
    assert found is not None, shell
    script = found(_Program(PROGRAM), {}, PROGRAM, COMPLETE_VARIABLE)
    # Not script.source(), which starts bash to look at its version.
    click.echo(script.source_template % script.source_vars())


def main(arguments: list[str]) -> None:
    """Print the script, and end the process."""
    command.main(arguments, prog_name=f"{PROGRAM} completion")
