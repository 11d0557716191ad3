"""The command ``kruise-agents run``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..errors import ConfigurationError, KruiseAgentsError, RuntimeUnavailableError
from ..protocol.addresses import Scheme
from ..run.environment import client_variables
from ..run.program import ProgramError, run, run_with_manager
from ..shell_variables import FORMATS, print_variables
from .exit_codes import EXIT_RUNTIME, EXIT_USAGE, fail

_USAGE = """\
kruise-agents run [OPTIONS] -- COMMAND [ARGUMENTS]
       kruise-agents run --local [OPTIONS] [OPTIONS OF SERVE] -- COMMAND [ARGUMENTS]
       kruise-agents run --env [OPTIONS]"""
_DESCRIPTION = """\
Run an unchanged program with the SDK patched: in the program, if it is Python, and in every Python process below it.
E2B_DOMAIN and E2B_API_KEY say which manager the program uses. Other programs find that manager by E2B_API_URL and
E2B_SANDBOX_URL."""
_EXAMPLES = """\
examples:
  kruise-agents run --local -- python agent.py
  kruise-agents run --local --no-internet --memory 1024 -- pytest
  E2B_DOMAIN=localhost:7788 kruise-agents run --http -- node agent.mjs
  eval "$(kruise-agents run --http --env)"
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options before ``--``."""
    options = argparse.ArgumentParser(
        "kruise-agents run",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    scheme = options.add_mutually_exclusive_group()
    scheme.add_argument("--https", action="store_true", help="the manager speaks https (default)")
    scheme.add_argument("--http", action="store_true", help="the manager speaks plain http")
    options.add_argument("--local", action="store_true", help="run an embedded manager as long as the program runs")
    options.add_argument(
        "--manager-log", type=Path, metavar="FILE", help="with --local: the file for the manager's log"
    )
    options.add_argument("--traffic-tokens", action="store_true", help="also send tokens to protected sandboxes")
    options.add_argument("--env", action="store_true", help="print the variables for programs without the patch")
    options.add_argument("--format", choices=FORMATS, default="shell", help="how --env writes them (default: shell)")
    options.add_argument("--verbose", action="store_true", help="say on standard error what is not patched, and why")
    return options


def main(arguments: list[str]) -> None:
    """Run ``kruise-agents run``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    command = arguments[end + 1 :]
    options, for_serve = parser().parse_known_args(arguments[:end])
    scheme: Scheme = "http" if options.http else "https"
    try:
        _refuse_what_does_not_fit(options, for_serve, command)
        if options.env:
            _print(client_variables(os.environ, scheme), options.format)
        elif options.local:
            told = {"traffic_tokens": options.traffic_tokens, "verbose": options.verbose}
            run_with_manager(command, for_serve, options.manager_log, **told)
        else:
            run(command, scheme, traffic_tokens=options.traffic_tokens, verbose=options.verbose)
    except ProgramError as error:
        fail(error, error.exit_code)
    except RuntimeUnavailableError as error:
        fail(error, EXIT_RUNTIME)
    except KruiseAgentsError as error:
        fail(error, EXIT_USAGE)


def _refuse_what_does_not_fit(options: argparse.Namespace, for_serve: list[str], command: list[str]) -> None:
    if options.env and (options.local or command):
        raise ConfigurationError(
            "--env prints variables and starts nothing; leave --local and the command out. For a manager in the "
            "background there are 'kruise-agents serve' and 'kruise-agents env'"
        )
    if for_serve and not (options.local and for_serve[0].startswith("-")):
        raise ConfigurationError(
            f"run does not know {for_serve[0]!r}; write -- before the command, and --local for options of serve"
        )
    if not command and not options.env:
        raise ConfigurationError(
            "the command is missing; write it behind --, as in: kruise-agents run --local -- python agent.py"
        )
    if options.local and (options.http or options.https):
        raise ConfigurationError("--local knows how its manager is reached; leave --http and --https out")
    if options.manager_log and not options.local:
        raise ConfigurationError("--manager-log needs --local, whose manager writes the log")


def _print(variables: dict[str, str], form: str) -> None:
    if "E2B_DOMAIN" not in variables:
        raise ConfigurationError(
            "E2B_DOMAIN is not set, so there is no address to print; set it to the domain of your sandbox-manager, "
            "such as localhost:7788. 'kruise-agents env' prints it for a manager on this machine"
        )
    print_variables(variables, form)
