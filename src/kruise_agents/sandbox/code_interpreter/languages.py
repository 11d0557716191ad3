"""Kernels of the languages: where each kernel is found, how it starts, and which protocol features it has.

Python's kernel is our own program. The package's extra ``languages`` installs ``bash_kernel`` and Deno in the manager's
Python environment; Deno may also be on ``PATH``. Other languages need a ``kernel.json`` in a kernel folder of Jupyter,
and so do Bash if ``bash_kernel`` is not found, and JavaScript and TypeScript if Deno is not found.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from . import environment
from .environment import Changes
from .errors import LanguageError

PYTHON = "python"
JAVASCRIPT = "javascript"
CONNECTION_FILE = "{connection_file}"  # the placeholder in a command, as in ``kernel.json``
STOP_SECONDS = 10  # for code to end after an interrupt, also for a computation that reacts late
REPEAT_SECONDS = 3  # before an interrupt is repeated, in case code swallowed it

BASH_CLASS = "kruise_agents.sandbox.code_interpreter.kernel.bash.LineKernel"

_SHORT_FORMS = {"": PYTHON, "js": "javascript", "ts": "typescript"}
_SYSTEM_FOLDERS = ("/usr/local/share/jupyter/kernels", "/usr/share/jupyter/kernels")
_EXTRA = "pip install 'kruise-agents[languages]' on the manager's side, or in a clone pip install '.[languages]'"
_INSTALL = {
    "bash": _EXTRA,
    "javascript": _EXTRA,
    "typescript": _EXTRA,
    "r": "install R with IRkernel on the manager's machine, then IRkernel::installspec(user = FALSE)",
    "java": "install a JDK on the manager's machine, then pip install jjava on the manager's side",
}
Assignment: TypeAlias = Callable[[Changes], str]
Mark: TypeAlias = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """The start command and the properties of a language's kernel."""

    command: tuple[str, ...]  # with :data:`CONNECTION_FILE` in place of the path
    variables: Mapping[str, str] = field(default_factory=dict)
    transport: Literal["ipc", "tcp"] = "ipc"
    interrupt: Literal["signal", "message"] = "signal"
    # The kernel is replaced if its code has not stopped this many seconds after the client left.
    stop_seconds: int = STOP_SECONDS
    # True: the kernel waits while nobody reads its output. False: the kernel drops such output unless it is stopped.
    output_blocks: bool = False
    assignment: Assignment | None = None  # source that changes environment variables; None: not possible
    # Source that writes a text to both outputs. Only for kernels that report the end before they send all output.
    mark: Mark | None = None
    preparation: str = ""  # source that runs silently before any other code


class Languages:
    """The kernels of a sandbox. A ``kernel.json`` below ``home`` is used before a ``kernel.json`` in another folder."""

    def __init__(self, python: KernelSpec, home: Path) -> None:
        self._python = python
        # Our own program runs the Bash kernel, because the program's output channel loses nothing. Settings for Python
        # do no harm.
        self._bash = replace(
            python,
            command=(*python.command, "--kernel", BASH_CLASS),
            assignment=environment.bash_assignment,
            # After a second interrupt while it waits for the prompt, the kernel would lose track of its shell.
            stop_seconds=REPEAT_SECONDS,
        )
        self._folders = (
            home / ".local/share/jupyter/kernels",
            Path(sys.prefix) / "share/jupyter/kernels",
            *(Path(folder) for folder in _SYSTEM_FOLDERS),
        )

    def spec(self, language: str) -> KernelSpec:
        """Return the kernel of a language (full name). If none is found, raise LanguageError with what to install."""
        if language == PYTHON:
            return self._python
        found = self._from_extra(language) or self._from_folders(language)
        if found is None:
            how = _INSTALL.get(language, f"install a Jupyter kernel for it, with a kernel.json in {self._folders[-1]}")
            raise LanguageError(f"there is no kernel for language {language!r} in this sandbox: {how}")
        return found

    def _from_extra(self, language: str) -> KernelSpec | None:
        if language == "bash" and _has_bash_kernel():
            return self._bash
        if language in ("javascript", "typescript") and (deno := _deno()) is not None:
            return KernelSpec(
                (deno, "jupyter", "--kernel", "--conn", CONNECTION_FILE),
                variables={"NO_COLOR": "1", "DENO_NO_UPDATE_CHECK": "1"},
                transport="tcp",
                interrupt="message",
                # Deno (2.9) cannot interrupt code that awaits.
                stop_seconds=REPEAT_SECONDS,
                assignment=environment.javascript_assignment,
                mark=_deno_mark,
                preparation=_NODE_LIKE,
            )
        return None

    def _from_folders(self, language: str) -> KernelSpec | None:
        for folder in self._folders:
            for file, description in _kernel_files(folder):
                if language in (file.parent.name.lower(), str(description.get("language", "")).lower()):
                    return _installed(language, file, description)
        return None


def full_name(language: str | None) -> str:
    """Return the full name of a language from a request: ``javascript`` for ``" JS"``, ``python`` for None."""
    written = (language or "").strip().lower()
    return _SHORT_FORMS.get(written, written)


def _kernel_files(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(folder.glob("*/kernel.json")):
        try:
            description = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # a kernel without a readable file could not be started
        if isinstance(description, dict) and isinstance(description.get("argv"), list):
            yield file, description


def _installed(language: str, file: Path, description: dict[str, Any]) -> KernelSpec:
    command = tuple(str(part).replace("{resource_dir}", str(file.parent)) for part in description["argv"])
    variables = description.get("env")
    by_message = description.get("interrupt_mode") == "message"
    return KernelSpec(
        command,
        variables={str(k): str(v) for k, v in variables.items()} if isinstance(variables, dict) else {},
        # Not every kernel supports the transport ``ipc``.
        transport="tcp",
        interrupt="message" if by_message else "signal",
        stop_seconds=REPEAT_SECONDS if by_message else STOP_SECONDS,
        assignment=_ASSIGNMENTS.get(language),
    )


def _has_bash_kernel() -> bool:
    return importlib.util.find_spec("bash_kernel") is not None


def _deno() -> str | None:
    beside = Path(sysconfig.get_path("scripts")) / "deno"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("deno")


def _deno_mark(text: str) -> str:
    # The function that console.log calls, because a cell may have replaced console.log.
    return f"for (const isError of [false, true]) Deno[Deno.internal].core.print({json.dumps(text)}, isError)"


# Deno's kernel has no `require`, and sends only the output of console.log.
_NODE_LIKE = """\
await (async () => {
  globalThis.require = (await import("node:module")).createRequire(process.cwd() + "/cell.js");
  const print = Deno[Deno.internal].core.print;
  for (const [stream, isError] of [[process.stdout, false], [process.stderr, true]]) {
    stream.write = (chunk, ...others) => {
      print(typeof chunk === "string" ? chunk : new TextDecoder().decode(chunk), isError);
      const done = others.at(-1);
      if (typeof done === "function") done();
      return true;
    };
  }
})()"""
_ASSIGNMENTS: dict[str, Assignment] = {
    "bash": environment.bash_assignment,
    "java": environment.java_assignment,
    "javascript": environment.javascript_assignment,
    "r": environment.r_assignment,
    "typescript": environment.javascript_assignment,
}
