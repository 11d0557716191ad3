"""`make reference`: writes docs/reference/command-line.md from the declarations of the options.

With ``--check`` nothing is written; the exit code says whether the page is as it should be.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kruise_agents.cli.exit_codes import EXIT_RUNTIME, EXIT_USAGE
from kruise_agents.cli.serve import OPTIONS
from kruise_agents.manager.settings import Declaration

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "command-line.md"
HEAD = """\
# `kruise-agents serve`

Runs an embedded sandbox-manager until Ctrl-C. `kruise-agents serve --help` says the same as this page, which
`make reference` makes from the code.

A value comes from the option on the command line, else from the environment variable; else the default counts. An
environment variable that is empty counts as not set. For a switch the variable is `true` or `false` (also `yes`, `on`,
`1`, and `no`, `off`, `0`). A value that cannot be used ends the command with a message that names its option or
variable.

| option | environment variable | default | |
|---|---|---|---|
"""
TAIL = f"""
Programs that embed a manager set the same values as fields of `kruise_agents.manager.settings.Settings`. Its
`state_dir` and `api_keys` have no default, and `limits` counts memory and disk in bytes.

Exit codes: 0 after Ctrl-C; {EXIT_USAGE} where a setting cannot work, and nothing was started; {EXIT_RUNTIME} where
this machine does not permit the isolation that was asked for.
"""


def main() -> int:
    text = HEAD + "".join(f"{row(declaration)}\n" for declaration in OPTIONS) + TAIL
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
        return 0
    if PAGE.read_text() == text:
        return 0
    print(f"{PAGE.name} is not what the code says; run `make reference`")
    return 1


def row(declaration: Declaration) -> str:
    option = declaration.option
    names = f"`{option.name}`" + (f", `{option.negative}`" if option.negative else "")
    cells = [names, f"`{option.variable}`", default(declaration), " ".join([option.help, *accepted(declaration)])]
    return f"| {' | '.join(cells)} |"


def default(declaration: Declaration) -> str:
    value = declaration.default
    if declaration.option.default_text or value is None:
        return declaration.option.default_text or ""
    shown = (
        str(value).lower() if declaration.kind is bool else f"{value:g}" if declaration.kind is float else str(value)
    )
    return f"`{shown}`"


def accepted(declaration: Declaration) -> list[str]:
    option = declaration.option
    sentences = []
    if option.choices:
        sentences.append(f"One of {', '.join(f'`{choice}`' for choice in option.choices)}.")
    if option.unit in ("MIB", "SECONDS"):
        sentences.append({"MIB": "In MiB.", "SECONDS": "In seconds."}[option.unit])
    if option.least is not None:
        sentences.append(f"{option.least} to {option.most}.")
    return sentences


if __name__ == "__main__":
    sys.exit(main())
