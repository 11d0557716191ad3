"""The command line of the doctor, and the order in which it makes the checks."""

from __future__ import annotations

import argparse
import difflib
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from . import cluster, machine, manager, sandbox, sdk, way
from .checks import Check, Group, Result, Verdict, broken, warning
from .report import Secrets, Terminal, as_json, verdict_of
from .world import Options, World

_LISTS = (machine.CHECKS, sdk.CHECKS, way.CHECKS, manager.CHECKS, sandbox.CHECKS, cluster.CHECKS)
CHECKS: dict[str, Check] = {each.id: each for checks in _LISTS for each in checks}
"""All checks by ID, in the order of the report."""
EXIT_WARNING = 1
EXIT_BROKEN = 2
EXIT_INTERRUPTED = 130
"""128 and the number of SIGINT, as shells count."""
_SLACK = 2.0
"""Seconds after the deadline in which checks can still say what they saw."""
_SECONDS_OF_A_SANDBOX = 120


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    made = argparse.ArgumentParser(
        "kruise-agents doctor",
        usage="kruise-agents doctor [options]",
        description="Say why a program does not reach its manager. The checks read the variables of this shell, look "
        "at the installed SDK, and ask the manager. Nothing is created without --create, and no key is printed.",
        epilog="Exit code: 0 if all is well, 1 for warnings with --strict, 2 if something is broken.",
        allow_abbrev=False,
    )
    made.add_argument("--domain", metavar="HOST[:PORT]", help="the domain of the manager  [default: E2B_DOMAIN]")
    scheme = made.add_mutually_exclusive_group()
    scheme.add_argument(
        "--https", dest="scheme", action="store_const", const="https", help="the program calls patch_e2b()"
    )
    scheme.add_argument(
        "--http", dest="scheme", action="store_const", const="http", help="the program calls patch_e2b(False)"
    )
    made.add_argument("--create", action="store_true", help="make one sandbox, use it, and kill it")
    made.add_argument("--template", metavar="NAME", help="the template of that sandbox  [default: the SDK's]")
    made.add_argument("--kubectl", action="store_true", help="look at the cluster with kubectl; nothing is changed")
    made.add_argument(
        "--namespace",
        default=Options.namespace,
        metavar="NAME",
        help="the namespace of the manager, for --kubectl  [default: sandbox-system]",
    )
    made.add_argument("--context", metavar="NAME", help="the context of kubectl  [default: the current one]")
    made.add_argument("--json", action="store_true", help="print the report as JSON")
    made.add_argument("--strict", action="store_true", help="end with exit code 1 if there are warnings")
    made.add_argument("--explain", metavar="ID", help="say what a check looks at and what to do, and end")
    made.add_argument(
        "--timeout",
        type=_seconds,
        default=Options.seconds,
        metavar="SECONDS",
        help="the time for all checks but those of --create  [default: 10]",
    )
    return made


def _seconds(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 600:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 1 to 600")
    return value


def main(arguments: Sequence[str]) -> None:
    """Run the command, and end the process with its exit code."""
    given = parser().parse_args(arguments)
    environment = dict(os.environ)
    secrets = Secrets(environment)
    terminal = Terminal(sys.stdout, environment, secrets)
    if given.explain is not None:
        terminal.explain(_check(given.explain))
        return
    options = Options(
        domain=given.domain,
        scheme=given.scheme,
        create=given.create,
        template=given.template,
        kubectl=given.kubectl,
        namespace=given.namespace,
        context=given.context,
        seconds=given.timeout,
    )
    try:
        world, results = examine(options, environment)
    except KeyboardInterrupt:  # what was made is killed by now
        sys.exit(EXIT_INTERRUPTED)
    if given.json:
        print(as_json(world, results, secrets))
    else:
        terminal.report(results)
    sys.stdout.flush()
    sys.exit(exit_code(results, strict=given.strict))


def _check(name: str) -> Check:
    if name in CHECKS:
        return CHECKS[name]
    likely = difflib.get_close_matches(name, CHECKS, 1)
    hint = f"did you mean '{likely[0]}'?" if likely else f"there are {', '.join(CHECKS)}"
    print(f"kruise-agents doctor: there is no check {name!r}; {hint}", file=sys.stderr)
    sys.exit(EXIT_BROKEN)


def exit_code(results: Sequence[Result], *, strict: bool) -> int:
    """Return the exit code for the worst of the results."""
    worst = verdict_of(results)
    if worst is Verdict.BROKEN:
        return EXIT_BROKEN
    return EXIT_WARNING if worst is Verdict.WARNING and strict else 0


def examine(options: Options, environment: Mapping[str, str]) -> tuple[World, list[Result]]:
    """Make the checks that the options ask for, and return their results in the order of the report.

    Checks are made at once, but for those of a sandbox, which follow one another.
    """
    world = World(options, environment)
    wanted = {Group.SANDBOX: options.create, Group.CLUSTER: options.kubectl}
    chosen = [each for each in CHECKS.values() if wanted.get(each.group, True)]
    found = dict(_made_at_once(world, [each for each in chosen if each.group is not Group.SANDBOX]))
    if options.create:
        world.seconds_more(_SECONDS_OF_A_SANDBOX)
        try:
            found |= {each.id: _made(world, each) for each in sandbox.CHECKS}
        finally:
            sandbox.finish(world)
    return world, [found[each.id] for each in chosen]


def _made_at_once(world: World, checks: Sequence[Check]) -> Iterator[tuple[str, Result]]:
    """Yield the result of each check as soon as it is there; after the deadline, a result that says so."""
    done: queue.SimpleQueue[Result] = queue.SimpleQueue()
    for each in checks:
        threading.Thread(target=lambda each=each: done.put(_made(world, each)), daemon=True).start()
    waiting = {each.id: each for each in checks}
    end = time.monotonic() + world.options.seconds + _SLACK
    while waiting:
        try:
            result = done.get(timeout=max(end - time.monotonic(), 0.01))
        except queue.Empty:
            break
        del waiting[result.check.id]
        yield result.check.id, result
    for each in waiting.values():
        late = f"no result within {world.options.seconds:g} seconds"
        yield each.id, Result(each, warning(late, "Something that it waits for does not answer."))


def _made(world: World, check: Check) -> Result:
    started = time.monotonic()
    try:
        finding = check.run(world)
    except Exception as error:  # of any kind: a defect of one check must not hide the others
        finding = broken("the check itself failed", f"{type(error).__name__}: {error}")
    return Result(check, finding, time.monotonic() - started)
