"""The page of the commands, from their declarations. A new command appears on the page without a change here."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import itertools
import re
from collections.abc import Iterator

import click

from kruise_agents.cli import COMMANDS, PROGRAM, exit_codes, help_text
from kruise_agents.cli.options import DeclaredOption
from kruise_agents.manager import backup

from .markdown import NOTE, code, table, wrapped

_DEFAULT = "  [default: "
_NAME = re.compile(r"(?<![\w`-])(?:--[a-z][a-z0-9-]*|KRUISE_AGENTS_[A-Z_]+(?:=\w+)?)")
_UPPER_CASE = re.compile(r"\$[A-Z][^ ,]*")
HEAD = """\
# Command line

The package installs one program, `kruise-agents`; `python -m kruise_agents` is the same program. `--help` behind a
command prints what this page says about it. Some commands need an extra of the package: for the extra `local` run
`pip install '.[local]'` in a clone, or, once released, `pip install 'kruise-agents[local]'`.

{contents}

Without a command, `kruise-agents` has these options:

```text
{top}
```

## How values are found

- An option on the command line overrides its environment variable, which overrides the default.
- The variable of an option is `KRUISE_AGENTS_` and the option's name in capitals with `_` for `-`: `--state-dir` is
  `KRUISE_AGENTS_STATE_DIR`. [Environment variables](environment.md#options-of-kruise-agents-serve) lists all of them.
  An empty variable counts as not set.
- The variable of a switch is `true` or `false`; `yes`, `on`, `1` and `no`, `off`, `0` are read as well.
- A value that cannot work ends the command before anything is started, with a message that says what is
  wrong. [Errors A to Z](errors.md) has the messages.

## Exit codes

{exit_codes}"""
COMMAND_NOTES = {
    "sandbox": """\
**Exit codes.** 1 for an error, which is told in one line. `exec` and `shell` end with the code of the command, and with
128 and the number of the signal if a signal ended the command; `run` ends with 1 if the code raised an error. Ctrl-C
gives 130. With `KRUISE_AGENTS_TRACEBACK=1` an error shows its traceback.
""",
    "serve": """\
**Signals.** SIGINT (Ctrl-C), SIGTERM and SIGHUP end the manager with exit code 0; under `nohup` SIGHUP does not.

**In a program.** All values before `--temporary` are fields of `kruise_agents.manager.settings.Settings`. There
`state_dir` has no default, and `limits` counts memory and disk in bytes.
""",
}
BACKUP = """\
## Backup

```text
{usage}
```

Copies the state folder of a manager to a new folder, on which another manager can start. A manager may use the original
meanwhile. The copy has paused sandboxes, snapshots, volumes, secrets, and the API keys that were created over the API.
Running sandboxes are left out.

| argument | meaning |
|---|---|
| `<state folder>` | the `--state-dir` of a manager, by default `~/.local/state/kruise-agents` |
| `<new folder>` | a folder that does not exist; folders above it are made |

Exit codes: 0 when everything was copied, 1 when something was not copied or an argument is wrong. The reason is on
standard error.
"""
OF_EVERY_COMMAND = [
    ("0", "The command did what was asked. For `serve`: a signal ended the manager."),
    (
        "1",
        "An error that no option caused, such as a full disk; an unexpected error with a traceback. For "
        "`doctor --strict`: there are warnings.",
    ),
]


def page() -> str:
    """Return the page."""
    commands = list(_commands())
    contents = [
        *(
            wrapped(f"[{code(name)}](#{name.replace(' ', '-')}): {_summary(name, command)}", "  ")
            for name, command in commands
        ),
        "- [`python -m kruise_agents.manager.backup`](#backup): copy a state folder while a manager uses it",
    ]
    rows = OF_EVERY_COMMAND + [(str(number), meaning) for number, meaning in sorted(_exit_codes())]
    head = HEAD.format(contents="\n".join(contents), top=help_text(), exit_codes=table(["code", "meaning"], rows))
    (usage,) = [line for line in (inspect.getdoc(backup) or "").splitlines() if line.startswith("usage: ")]
    parts = [NOTE + head, *(_section(name, command) for name, command in commands)]
    return "\n".join([*parts, BACKUP.format(usage=usage.removeprefix("usage: "))])


def _commands() -> Iterator[tuple[str, click.Command | argparse.ArgumentParser]]:
    """Yield all commands, also those below other commands, with their full names."""
    for name in COMMANDS:
        module = importlib.import_module(f"kruise_agents.cli.{name.replace('-', '_')}")
        full_name = f"{PROGRAM} {name}"
        if hasattr(module, "parser"):
            yield full_name, module.parser()
        else:
            yield from _click_commands(module.command, full_name)


def _click_commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if command.hidden:
        return
    yield name, command
    if isinstance(command, click.Group):
        for below in command.list_commands(click.Context(command)):
            yield from _click_commands(command.commands[below], f"{name} {below}")


def _section(name: str, command: click.Command | argparse.ArgumentParser) -> str:
    if isinstance(command, argparse.ArgumentParser):
        return f"## `{name}`\n\n```text\n{command.format_help().rstrip()}\n```\n"
    context = click.Context(command, info_name=name, help_option_names=["-h", "--help"])
    pieces = [name, *command.collect_usage_pieces(context)]
    text = [f"## `{name}`\n", f"```text\n{' '.join(pieces)}\n```\n", _help(command.help or "")]
    # click keeps the help option from the first call of a command, whatever names that call had asked for.
    parameters = [*command.params, click.Option(["-h", "--help"], is_flag=True, help="Show this message and exit.")]
    arguments = [parameter for parameter in parameters if isinstance(parameter, click.Argument)]
    if arguments:
        text.append(table(["argument", "meaning"], [_argument(argument) for argument in arguments]))
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option) and not parameter.hidden]
    text.append(table(["option", "default", "meaning"], [_option(option, context) for option in options]))
    if isinstance(command, click.Group):
        below = [code(f"{name} {each}") for each in command.list_commands(context) if not command.commands[each].hidden]
        text.append(f"Commands: {', '.join(below)}.\n")
    note = COMMAND_NOTES.get(name.removeprefix(f"{PROGRAM} "))
    return "\n".join([*text, *([note] if note else [])])


def _help(text: str) -> str:
    """Return the help of a command as Markdown. A paragraph that click must not wrap becomes a block of code."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if not paragraph.startswith("\b"):
            parts.append(wrapped(_marked(paragraph)) + "\n")
            continue
        lines = paragraph.removeprefix("\b").strip("\n").splitlines()
        if not lines[0].startswith(" "):
            parts.append(lines.pop(0) + "\n")
        parts.append("```text\n" + "\n".join(line.strip() for line in lines) + "\n```\n")
    return "\n".join(parts)


def _marked(text: str) -> str:
    """Return a text of ``--help`` with the options and variables marked as code."""
    return _NAME.sub(r"`\g<0>`", text)


def _argument(argument: click.Argument) -> list[str]:
    return [
        code(argument.make_metavar(click.Context(click.Command(None)))),
        "required" if argument.required else "may be left out",
    ]


def _option(option: click.Option, context: click.Context) -> list[str]:
    names = [*option.opts, *option.secondary_opts]
    shown = ", ".join(code(f"{name} {_value(option, context)}".strip()) for name in names)
    text = (option.help or "").partition(_DEFAULT)[0]
    limits = limits_of(option)
    return [shown, default_of(option), " ".join([_marked(text), *([limits] if limits else [])])]


def _value(option: click.Option, context: click.Context) -> str:
    """Return the name of an option's value; a switch has none."""
    if option.is_flag or option.count or isinstance(option.type, click.Choice):
        return "" if option.is_flag or option.count else "WORD"
    return option.make_metavar(context).replace(" RANGE", "")


def default_of(option: click.Option) -> str:
    """Return the default as Markdown; empty if there is none."""
    in_words = (option.help or "").partition(_DEFAULT)[2]
    if in_words:
        return _UPPER_CASE.sub(r"`\g<0>`", in_words.removesuffix("]"))
    declared = option.declaration.default if isinstance(option, DeclaredOption) else option.default
    if option.is_flag:
        if not option.expose_value:  # such as --help
            return ""
        on_or_off = option.opts if declared is True else option.secondary_opts
        return code(on_or_off[0]) if on_or_off else "off"
    if isinstance(declared, float):
        return code(f"{declared:g}")
    return code(str(declared)) if isinstance(declared, str | int) else ""


def limits_of(option: click.Option) -> str:
    """Return a sentence on the values that an option accepts; empty if all values of its type are accepted."""
    kind = option.type
    if isinstance(kind, click.Choice):
        return f"One of {', '.join(code(str(choice)) for choice in kind.choices)}."
    if isinstance(kind, click.IntRange | click.FloatRange):
        least, most = kind.min, kind.max
        if least is not None and most is not None:
            return f"{least:,} to {most:,}."
        return f"{least:,} or more." if least is not None else f"{most:,} at most."
    return "May be given more than once." if option.multiple and "more than once" not in (option.help or "") else ""


def _exit_codes() -> Iterator[tuple[int, str]]:
    """Yield the numbers of ``exit_codes.py``, each with the text below it."""
    statements = ast.parse(inspect.getsource(exit_codes)).body
    for statement, below in itertools.pairwise(statements):
        match statement, below:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(text))):
                yield getattr(exit_codes, name), " ".join(text.split())


def _summary(name: str, command: click.Command | argparse.ArgumentParser) -> str:
    """Return one line on a command, without the extra that it needs."""
    top = COMMANDS.get(name.removeprefix(f"{PROGRAM} "))
    if isinstance(command, click.Command) and command.help:
        text = " ".join(command.help.split("\n\n")[0].split())
    else:
        text = top.help if top else ""
    extra = f" (extra `{top.extra}`)" if top and top.extra else ""
    return f"{text[:1].lower()}{text[1:].rstrip('.')}{extra}"
