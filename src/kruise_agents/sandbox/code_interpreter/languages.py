"""Which languages have a kernel here, how it is started, and what each needs said in its own words.

Python's kernel is ours. Every other one is found as Jupyter finds it, by a ``kernel.json``, or, for those that come
from the extra ``languages``, in the manager's Python environment, where they install none.
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

__all__ = ["PYTHON", "KernelSpec", "Languages", "normalised"]

PYTHON = "python"
CONNECTION_FILE = "{connection_file}"
"""In a command, as in ``kernel.json``: the path of the connection file."""

BASH_CLASS = "kruise_agents.sandbox.code_interpreter.kernel.bash.LineKernel"

_SHORT_FORMS = {"": PYTHON, "js": "javascript", "ts": "typescript"}
_SYSTEM_FOLDERS = ("/usr/local/share/jupyter/kernels", "/usr/share/jupyter/kernels")
_EXTRA = "pip install 'kruise-agents[languages]' on the manager's side"
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
    """How the kernel of a language is started and spoken to."""

    command: tuple[str, ...]
    """With :data:`CONNECTION_FILE` where its path belongs."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Additional environment variables of the process."""
    transport: Literal["ipc", "tcp"] = "ipc"
    interrupt: Literal["signal", "message"] = "signal"
    replaced_when_deaf: bool = False
    """Whether it is killed when it does not follow an interrupt. If not, the interrupt is repeated."""
    output_blocks: bool = False
    """Whether it waits while nobody reads its output. Kernels drop it by default and then have to be stopped."""
    assignment: Assignment | None = None
    """Makes the source that changes environment variables in a running kernel; None: it cannot be told."""
    mark: Mark | None = None
    """For kernels that say that they are done before all output has left: makes the source that writes a text to both
    outputs, which comes after everything else."""
    preparation: str = ""
    """Source that runs unseen before anything else."""


class Languages:
    """Finds kernels.

    Parameters:
        python: the command of the kernel for Python.
        home: whose ``.local/share/jupyter/kernels`` counts first.
    """

    def __init__(self, python: KernelSpec, home: Path) -> None:
        self._python = python
        # In our own program, for the sake of its output channel; what only Python needs does no harm.
        self._bash = replace(
            python,
            command=(*python.command, "--kernel", BASH_CLASS),
            assignment=environment.bash_assignment,
            # Interrupted again while it waits for the prompt, it would lose track of its shell.
            replaced_when_deaf=True,
        )
        self._folders = (
            home / ".local/share/jupyter/kernels",
            Path(sys.prefix) / "share/jupyter/kernels",
            *(Path(folder) for folder in _SYSTEM_FOLDERS),
        )

    def spec(self, language: str) -> KernelSpec:
        """How the kernel of a language (its full name) is started.

        Raises:
            LanguageError: there is none; the text says what to install.
        """
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
                # What awaits cannot be interrupted there (2.9).
                replaced_when_deaf=True,
                assignment=environment.javascript_assignment,
                mark=_deno_mark,
                preparation=_NODE_LIKE,
            )
        return None

    def _from_folders(self, language: str) -> KernelSpec | None:
        for folder in self._folders:
            for file, wanted in _kernel_files(folder):
                if language in (file.parent.name.lower(), str(wanted.get("language", "")).lower()):
                    return _installed(language, file, wanted)
        return None


def normalised(language: str | None) -> str:
    """The full name of a language as a client may write it (``" JS"`` is ``javascript``)."""
    written = (language or "").strip().lower()
    return _SHORT_FORMS.get(written, written)


def _kernel_files(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted(folder.glob("*/kernel.json")):
        try:
            wanted = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # no kernel that could be started
        if isinstance(wanted, dict) and isinstance(wanted.get("argv"), list):
            yield file, wanted


def _installed(language: str, file: Path, wanted: dict[str, Any]) -> KernelSpec:
    command = tuple(str(part).replace("{resource_dir}", str(file.parent)) for part in wanted["argv"])
    variables = wanted.get("env")
    return KernelSpec(
        command,
        variables={str(k): str(v) for k, v in variables.items()} if isinstance(variables, dict) else {},
        # Not every kernel knows ipc.
        transport="tcp",
        interrupt="message" if wanted.get("interrupt_mode") == "message" else "signal",
        replaced_when_deaf=wanted.get("interrupt_mode") == "message",
        assignment=_ASSIGNMENTS.get(language),
    )


def _has_bash_kernel() -> bool:
    return importlib.util.find_spec("bash_kernel") is not None


def _deno() -> str | None:
    beside = Path(sysconfig.get_path("scripts")) / "deno"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("deno")


def _deno_mark(text: str) -> str:
    # What console.log ends in; a cell may have replaced that.
    return f"for (const isError of [false, true]) Deno[Deno.internal].core.print({json.dumps(text)}, isError)"


# Deno's kernel has no `require`, and takes the output of console.log only.
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
